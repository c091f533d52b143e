"""Damaged IDX files and data sets, compared with the oracle."""

from __future__ import annotations

from random import Random

from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets
from mnist_cnn.data.idx import read_idx
from mnist_cnn.errors import DataError, MnistCnnError

from . import mutations, oracle
from .reader import ACCEPTED, Fault, Files, Reader, put


class Idx(Reader):
    """One IDX file."""

    refusals = DataError

    def draw(self, random: Random) -> Files:
        rank = random.choice((1, 3))
        return {f"rank-{rank}": mutations.damaged_idx(random, rank)}

    def read(self, files: Files) -> str:
        ((name, content),) = files.items()
        rank = int(name[-1])
        wanted = oracle.read(content, rank)
        put(self.folder, files)
        try:
            array = read_idx(self.folder / name, rank)
        except DataError as error:
            if wanted is not None:
                raise Fault("a sound file is refused") from error
            raise
        if wanted != oracle.Read(array.shape, array.tobytes()) or array.dtype.name != "uint8":
            raise Fault(f"read as {array.dtype} {array.shape}, but the oracle reads {wanted}")
        return ACCEPTED


class DataFolder(Reader):
    """The four files of `data.dir`: damaged, swapped, of other sizes, or with invalid labels."""

    RANKS = {"train-images": 3, "train-labels": 1, "test-images": 3, "test-labels": 1}  # noqa: RUF012
    CLASSES = 10
    refusals = MnistCnnError

    def draw(self, random: Random) -> Files:
        counts = {"train": random.randrange(2, 7), "test": random.randrange(2, 7)}
        files = {}
        for name, rank in self.RANKS.items():
            content = mutations.sound_idx(random, rank, counts[name.partition("-")[0]])
            files[name] = mutations.maybe_packed(content, random)
        one, other = random.sample(sorted(files), 2)
        choice = random.random()
        if choice < 0.2:
            files[one], files[other] = files[other], files[one]
        elif choice < 0.4:
            files[one] = mutations.damaged_idx(random, self.RANKS[one])
        elif choice < 0.7:
            files[one] = mutations.damaged(files[one], random)
        elif choice < 0.8:
            files[one] = mutations.sound_idx(random, self.RANKS[one], random.randrange(1, 9), (4, 5))
        elif choice < 0.9:
            labels = bytearray(mutations.sound_idx(random, 1, counts["train"]))
            labels[random.randrange(8, len(labels))] = random.randrange(256)
            files["train-labels"] = bytes(labels)
        else:
            del files[one]
        return files

    def read(self, files: Files) -> str:
        for name in self.RANKS:
            (self.folder / name).unlink(missing_ok=True)
        put(self.folder, files)
        wanted = self._wanted(files)
        try:
            found = datasets.load(DataConfig(dir=str(self.folder), num_classes=self.CLASSES))
        except MnistCnnError as error:
            if wanted is not None:
                raise Fault("a sound data set is refused") from error
            raise
        arrays = (found.x_train[..., 0], found.y_train, found.x_test[..., 0], found.y_test)
        if wanted != [oracle.Read(array.shape, array.tobytes()) for array in arrays]:
            raise Fault(f"the oracle reads {wanted}")
        return ACCEPTED

    def _wanted(self, files: Files) -> list[oracle.Read] | None:
        """Return the content of the four files, or None if one is damaged or they don't match."""
        four = [oracle.read(files.get(name, b""), rank) for name, rank in self.RANKS.items()]
        whole = [read for read in four if read is not None]
        if len(whole) < len(four):
            return None
        x_train, y_train, x_test, y_test = whole
        fits = (
            x_train.shape[:1] == y_train.shape
            and x_test.shape[:1] == y_test.shape
            and x_train.shape[1:] == x_test.shape[1:]
            and max(y_train.values + y_test.values) < self.CLASSES
        )
        return whole if fits else None
