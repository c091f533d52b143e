"""Damaged checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from mnist_cnn import launch
from mnist_cnn.result import EpochRow
from mnist_cnn.training import checkpoint
from mnist_cnn.training.runtime import Runtime

from . import mutations
from .reader import ACCEPTED, Fault, Files, Reader, put


class Checkpoints(Reader):
    """Two checkpoints. The newer has damaged bytes, or bad content with a right checksum."""

    def __init__(self, run: Path, folder: Path) -> None:
        super().__init__(run, folder)
        logging.getLogger("mnist_cnn").addHandler(logging.NullHandler())
        self.kept = checkpoint.Checkpoints(folder)
        job, runtime = launch.make_job(), Runtime.here("float32", "cpu", None)
        self.arrays = (np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7, 8], np.uint32))
        for epochs in (1, 2):
            rows = tuple(EpochRow(epoch, 0.1, 0.9, 0.1, 0.9, 1.0, 1.0) for epoch in range(1, epochs + 1))
            state = checkpoint.generators()
            self.kept.save(checkpoint.Checkpoint(job, runtime, rows, self.arrays, state))
        self.sound = {file.name: file.read_bytes() for file in folder.iterdir()}
        self.newer = max(name for name in self.sound if name.endswith(".npz"))

    def draw(self, random: Random) -> Files:
        content = self.sound[self.newer]
        choice = random.random()
        if choice < 0.3:
            content = mutations.damaged(content, random)
        elif choice < 0.9:
            content = self._repacked(random)
        if choice < 0.1:
            return {self.newer: content}  # under the checksum of the sound one
        checksum = hashlib.sha256(content).hexdigest().encode()
        if choice >= 0.9:
            checksum = mutations.damaged(checksum, random)
        return {self.newer: content, self.newer.replace(".npz", ".sha256"): checksum}

    def read(self, files: Files) -> str:
        put(self.folder, {**self.sound, **files})
        found = self.kept.newest()
        if found is None:
            raise Fault("the older, sound checkpoint was not found")
        if len(found.history) == 1:
            return "skipped"
        if not all(isinstance(array, np.ndarray) for array in found.arrays):
            raise Fault(f"{found.arrays!r} were read as arrays")
        for row in found.history:
            if not all(isinstance(value, int | float) for value in dataclasses.astuple(row)):
                raise Fault(f"{row} was read as a row of the history")
        like = [(array.shape, array.dtype) for array in self.arrays]
        if [(array.shape, array.dtype) for array in found.arrays] != like:
            return "read; the trainer refuses its arrays"
        content, checksum = (self.folder / self.newer).read_bytes(), self.newer.replace(".npz", ".sha256")
        if (self.folder / checksum).read_text() != hashlib.sha256(content).hexdigest():
            raise Fault("a checkpoint with a wrong checksum was read")
        return ACCEPTED

    def _repacked(self, random: Random) -> bytes:
        """Return the newer checkpoint with a missing, foreign, odd or huge member."""
        with zipfile.ZipFile(io.BytesIO(self.sound[self.newer])) as old:
            members = {name: old.read(name) for name in old.namelist()}
        name = random.choice(sorted(members))
        about = json.loads(np.load(io.BytesIO(members["about.npy"])).tobytes())
        way = random.choice((*2 * (0, 1, 2, 3, 4, 5), 6, *7 * (7,)))
        if way == 0:
            del members[name]
        elif way == 1:
            foreign = random.choice(("0002.npy", "x", "../x.npy", "0000", "\N{PILE OF POO}.npy"))
            members[foreign] = members[name]
        elif way == 2:
            members[name] = as_npy(np.array([{"a": 1}, None], dtype=object))
        elif way == 3:
            members[name] = mutations.damaged(members[name], random)
        elif way == 4:
            members[name] = as_npy(random.choice(ODD_ARRAYS))
        elif way == 5:
            members[name] = npy_of_zeros(10 ** random.choice((9, 12, 15)))
        elif way == 6:
            members[name] = npy_of_zeros(2**26)
        else:
            text = mutations.damaged_json(json.dumps(about).encode(), random)
            members["about.npy"] = as_npy(np.frombuffer(text, np.uint8))
        content = io.BytesIO()
        packing = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
        packing = zipfile.ZIP_DEFLATED if way == 6 else packing
        with zipfile.ZipFile(content, "w", packing) as new:
            for member, value in members.items():
                about_it = zipfile.ZipInfo(member)
                about_it.compress_type = packing
                with new.open(about_it, "w") as file:
                    file.write(value)
                    for _ in range(256 if way == 6 and member == name else 0):  # a bomb
                        file.write(bytes(2**20))
        return content.getvalue()


def npy_of_zeros(count: int) -> bytes:
    """Return a .npy file whose header claims `count` float32 values; it holds one."""
    return as_npy(np.zeros(1, np.float32)).replace(b"(1,), }", b"(%d,), }" % count)


def as_npy(array: Any) -> bytes:
    """Return an array as a .npy file, objects pickled."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


ODD_ARRAYS: tuple[Any, ...] = (
    *(np.float32(1), np.zeros((0,), np.float32), np.zeros((3, 2), np.float32)),
    *(np.zeros((2, 3), np.float64), np.zeros((2, 3), ">f4"), np.array([True, False])),
    *(np.array(["x", "y"]), np.array(b"{}"), np.array("{}"), np.zeros(2, [("a", "f4")])),
    *(np.array(["2026-11-24"], "M8[s]"), np.asfortranarray(np.ones((2, 3), np.float32))),
)
