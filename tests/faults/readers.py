"""Each kind of file that may be bad: how one is made from a seed, and what of the product reads it.

A reader takes files to their end, which is "accepted" or the name of a worded error. Anything else is a
fault: another exception, words that are no message, an array that the oracle does not read so.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from . import mutations, oracle

if TYPE_CHECKING:
    from PIL import Image

Files = Mapping[str, bytes]
"""What is read: the names of files and their contents."""

ACCEPTED = "accepted"
LONGEST_MESSAGE = 2_000


class Fault(Exception):  # noqa: N818 - what is looked for
    """A promise was broken."""


class Reader(Protocol):
    """One kind of file, made and read."""

    def draw(self, random: Random) -> Files:
        """Make files, bad or not, that depend on nothing but `random`."""

    def look(self, files: Files) -> str:
        """Have the product read them; return how that ended. Raises Fault, or whatever the product raises."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """`reader` makes one from a sound run and an empty folder; `share` is of the number of inputs asked for.

    `mebibytes` is how much the process may grow by at most while it reads.
    """

    reader: Callable[[Path, Path], Reader]
    share: float
    mebibytes: int


def refused(error: Exception) -> str:
    """Return the name of a worded error. Raises Fault where it is none, or is no line of words."""
    from mnist_cnn.errors import MnistCnnError

    if not isinstance(error, MnistCnnError) or type(error) is MnistCnnError:
        raise Fault(f"{type(error).__name__} is no worded error") from error
    if not error.message or "\n" in error.message or len(error.message) > LONGEST_MESSAGE:
        raise Fault(f"no line of words: {error.message[:200]!r}") from error
    return type(error).__name__


def answer(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code and what it said."""
    from mnist_cnn import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(arguments))
    return code, out.getvalue(), err.getvalue()


def asked(*arguments: str) -> str:
    """Run the command in this process, where it must end as documented; return how."""
    from mnist_cnn.errors import ERRORS_BY_EXIT_CODE

    code, _, said = answer(*arguments)
    if "Traceback" in said or (code > 1 and code not in ERRORS_BY_EXIT_CODE):
        raise Fault(f"{' '.join(arguments)} exits {code}: {said[-3000:]}")
    if code and any(len(line) > LONGEST_MESSAGE for line in said.splitlines()):
        raise Fault(f"{' '.join(arguments)}: a line of {max(map(len, said.splitlines()))} characters")
    if code == 1:  # a bug would have its traceback
        return "a bug of a run, told again"
    return ERRORS_BY_EXIT_CODE[code].__name__ if code else ACCEPTED


def compose_once() -> None:
    """Have the same overrides composed once: it takes long, and reads none of these files."""
    from mnist_cnn import compose

    real, known = compose.compose, {}

    def remembered(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, Any]:
        asked_for = (*overrides, "", *config_dirs)
        if asked_for not in known:
            known[asked_for] = real(overrides, config_dirs)
        return copy.deepcopy(known[asked_for])

    compose.compose = remembered


def put(folder: Path, files: Files) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        (folder / name).unlink(missing_ok=True)  # some file systems sync a file that is overwritten
        (folder / name).write_bytes(content)


# Data


class Idx:
    """One IDX file, against the oracle."""

    def __init__(self, _run: Path, folder: Path) -> None:
        self.folder = folder

    def draw(self, random: Random) -> Files:
        rank = random.choice((1, 3))
        return {f"rank-{rank}": mutations.damaged_idx(random, rank)}

    def look(self, files: Files) -> str:
        from mnist_cnn.errors import DataError
        from mnist_cnn.idx import read_idx

        ((name, content),) = files.items()
        rank = int(name[-1])
        wanted = oracle.read(content, rank)
        put(self.folder, files)
        try:
            array = read_idx(self.folder / name, rank)
        except DataError as error:
            if wanted is not None:
                raise Fault("a sound file is refused") from error
            return refused(error)
        if wanted != oracle.Read(array.shape, array.tobytes()) or array.dtype.name != "uint8":
            raise Fault(f"read as {array.dtype} {array.shape}, where the oracle reads {wanted}")
        return ACCEPTED


class DataFolder:
    """The four files of `data.dir`, damaged, swapped, of other sizes or with labels that there are not."""

    RANKS = {"train-images": 3, "train-labels": 1, "test-images": 3, "test-labels": 1}  # noqa: RUF012
    CLASSES = 10

    def __init__(self, _run: Path, folder: Path) -> None:
        self.folder = folder

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

    def look(self, files: Files) -> str:
        from mnist_cnn import data
        from mnist_cnn.config import DataConfig
        from mnist_cnn.errors import MnistCnnError

        for name in self.RANKS:
            (self.folder / name).unlink(missing_ok=True)
        put(self.folder, files)
        wanted = self._wanted(files)
        config = DataConfig(dir=str(self.folder), num_classes=self.CLASSES)
        try:
            found = data.load(config)
        except MnistCnnError as error:
            if wanted is not None:
                raise Fault("a sound data set is refused") from error
            return refused(error)
        arrays = (found.x_train[..., 0], found.y_train, found.x_test[..., 0], found.y_test)
        if wanted != [oracle.Read(array.shape, array.tobytes()) for array in arrays]:
            raise Fault(f"read otherwise than the oracle does: {wanted}")
        return ACCEPTED

    def _wanted(self, files: Files) -> list[oracle.Read] | None:
        """Return what the four files hold; None where one is not sound or they do not fit each other."""
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


# The run folder


class RunFile:
    """A file of JSON of the run folder, under every verb that looks at it."""

    VERBS = (
        ("list", "--json"),
        ("list",),
        ("status", "latest"),
        ("status", "run", "--json"),
        ("follow", "run"),
        ("resume", "run"),
        ("register", "run", "register.name=m", "register.min_accuracy=0"),
        ("predict", "run", "digit.png"),
    )

    def __init__(self, run: Path, folder: Path, name: str, status: str | None = None) -> None:
        from mnist_cnn.backends.local import LocalBackend

        # A training is no part of reading a file: what `resume` starts here ends at once.
        LocalBackend.command = lambda self, folder: ["true"]  # type: ignore[method-assign]
        compose_once()
        self.name = name
        self.folder = folder
        self.sound = {
            file.name: file.read_bytes()
            for file in run.iterdir()
            if file.suffix in (".json", ".jsonl", ".onnx")
        }
        self.sound["model.keras"] = (run / "model.keras").read_bytes()
        self.sound["progress.json"] = b'{"status": "running", "epoch": 1, "epochs": 2, "step": 1, "steps": 9}'
        if status is not None:
            receipt = json.loads(self.sound["run.json"]) | {"status": status, "exit_code": 5}
            self.sound["run.json"] = json.dumps(receipt).encode()
        draw_digit(folder / "digit.png")
        os.chdir(folder)

    def draw(self, random: Random) -> Files:
        verb = json.dumps(random.choice(self.VERBS)).encode()
        return {self.name: mutations.damaged_json(self.sound[self.name], random), "verb": verb}

    def look(self, files: Files) -> str:
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        shutil.rmtree(self.folder / "models", ignore_errors=True)
        run = self.folder / "runs" / "run"
        run.mkdir(parents=True)
        put(run, {**self.sound, "log.txt": b"10:15:00 mnist_cnn x\n", self.name: files[self.name]})
        self._read_directly(run)
        return asked(*json.loads(files["verb"]))

    def _read_directly(self, run: Path) -> None:
        """Read by the functions that a notebook or another program would call."""
        from mnist_cnn import run_folder
        from mnist_cnn.errors import MnistCnnError
        from mnist_cnn.listening import describe_progress
        from mnist_cnn.notebook import describe_history

        for read in (
            run_folder.read_job,
            run_folder.read_receipt,
            run_folder.read_result,
            lambda folder: describe_history(run_folder.read_history(folder), "test"),
            lambda folder: (found := run_folder.read_progress(folder)) and describe_progress(found),
        ):
            try:
                read(run)
            except MnistCnnError as error:
                refused(error)


class Registered(RunFile):
    """model.json of a registered model, when the next one is registered and when it predicts."""

    def __init__(self, run: Path, folder: Path) -> None:
        super().__init__(run, folder, "model.json")
        put_run(folder / "runs" / "run", self.sound)
        code, _, said = answer("register", "run", "register.name=m", "register.min_accuracy=0")
        if code:
            raise Fault(said)
        self.sound = {file.name: file.read_bytes() for file in (folder / "models/m/1").iterdir()}

    def draw(self, random: Random) -> Files:
        verb = random.choice((self.VERBS[6], ("predict", "models/m/1", "digit.png")))
        content = mutations.damaged_json(self.sound["model.json"], random)
        return {"model.json": content, "verb": json.dumps(verb).encode()}

    def look(self, files: Files) -> str:
        shutil.rmtree(self.folder / "models")
        put_run(self.folder / "models/m/1", {**self.sound, "model.json": files["model.json"]})
        return asked(*json.loads(files["verb"]))


def put_run(folder: Path, files: Files) -> None:
    """Write files into a folder that need not be there."""
    folder.mkdir(parents=True, exist_ok=True)
    put(folder, files)


class Checkpoints:
    """Two checkpoints of which the newer is bad: its bytes, or its content under a checksum that fits."""

    def __init__(self, _run: Path, folder: Path) -> None:
        import logging

        import numpy as np

        from mnist_cnn import checkpoint, launch
        from mnist_cnn.conditions import Conditions
        from mnist_cnn.result import EpochRow

        logging.getLogger("mnist_cnn").addHandler(logging.NullHandler())
        self.kept = checkpoint.Checkpoints(folder)
        self.folder = folder
        job, conditions = launch.make_job(), Conditions.here("float32", "cpu", None)
        self.arrays = (np.arange(6, dtype=np.float32).reshape(2, 3), np.array([7, 8], np.uint32))
        for epochs in (1, 2):
            rows = tuple(EpochRow(epoch, 0.1, 0.9, 0.1, 0.9, 1.0, 1.0) for epoch in range(1, epochs + 1))
            state = checkpoint.generators()
            self.kept.save(checkpoint.Checkpoint(job, conditions, rows, self.arrays, state))
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

    def look(self, files: Files) -> str:
        import numpy as np

        put(self.folder, {**self.sound, **files})
        found = self.kept.newest()
        if found is None:
            raise Fault("the older one, which is sound, is not found")
        if len(found.history) == 1:
            return "passed over"
        if not all(isinstance(array, np.ndarray) for array in found.arrays):
            raise Fault(f"{found.arrays!r} are taken for arrays")
        for row in found.history:
            if not all(isinstance(value, int | float) for value in dataclasses.astuple(row)):
                raise Fault(f"{row} is taken for a row of the history")
        like = [(array.shape, array.dtype) for array in self.arrays]
        if [(array.shape, array.dtype) for array in found.arrays] != like:
            return "left to the trainer, which refuses its arrays"
        return ACCEPTED

    def _repacked(self, random: Random) -> bytes:
        """Return the newer checkpoint with members that are missing, foreign, odd or bombs."""
        import numpy as np

        with zipfile.ZipFile(io.BytesIO(self.sound[self.newer])) as old:
            members = {name: old.read(name) for name in old.namelist()}
        name = random.choice(sorted(members))
        about = json.loads(np.load(io.BytesIO(members["about.npy"])).tobytes())
        way = random.choice((0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, *7 * (7,)))
        if way == 0:
            del members[name]
        elif way == 1:
            members[random.choice(("0002.npy", "x", "../x.npy", "0000", "\N{PILE OF POO}.npy"))] = members[
                name
            ]
        elif way == 2:
            members[name] = as_npy(np.array([{"a": 1}, None], dtype=object))
        elif way == 3:
            members[name] = mutations.damaged(members[name], random)
        elif way == 4:
            members[name] = as_npy(random.choice(ODD_ARRAYS()))
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
    """Return the header of so many float32, and one of them."""
    import numpy as np

    return as_npy(np.zeros(1, np.float32)).replace(b"(1,), }", b"(%d,), }" % count)


def as_npy(array: Any) -> bytes:
    """Return an array as a file of numpy's, objects pickled."""
    import numpy as np

    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def ODD_ARRAYS() -> list[Any]:  # noqa: N802 - a constant that needs numpy
    import numpy as np

    return [
        np.float32(1),
        np.zeros((0,), np.float32),
        np.zeros((3, 2), np.float32),
        np.zeros((2, 3), np.float64),
        np.zeros((2, 3), ">f4"),
        np.array([True, False]),
        np.array(["x", "y"]),
        np.array(b"{}"),
        np.array("{}"),
        np.zeros(2, [("a", "f4")]),
        np.array(["2026-11-24"], "M8[s]"),
        np.asfortranarray(np.ones((2, 3), np.float32)),
    ]


# Models


class Onnx:
    """An .onnx file of somebody's, whose fields or bytes are changed; of the run folder it is another's."""

    SIZES = (0, 1, -1, 2, 3, 7, 10, 28, 255, 65_536, 2**31 - 1, 2**31, 2**40, 2**62, -(2**31), -(2**62))
    WORDS = (
        "",
        "x",
        "Conv",
        "Reshape",
        "Loop",
        "If",
        "Gather",
        "Expand",
        "Tile",
        "Pad",
        "Concat",
        "Constant",
    )

    def __init__(self, run: Path, folder: Path) -> None:
        self.folder = folder
        self.sound = (run / "model.onnx").read_bytes()
        self.record = (run / "result.json").read_bytes()

    def draw(self, random: Random) -> Files:
        change = random.choice((mutations.damaged, self._changed, self._changed, self._changed))
        files = {"model.onnx": change(self.sound, random)}
        return files | {"result.json": self.record} if random.random() < 0.3 else files

    def look(self, files: Files) -> str:
        import numpy as np

        from mnist_cnn.errors import MnistCnnError
        from mnist_cnn.predict import load_predictor

        (self.folder / "result.json").unlink(missing_ok=True)
        put(self.folder, files)
        images = np.zeros((2, 28, 28), np.uint8)
        try:
            predictor = load_predictor(self.folder)
            if "result.json" in files and files["model.onnx"] != self.sound:
                raise Fault("another model is taken for the run's")
            if (predictor.height, predictor.width) != (28, 28):
                return "accepted, of another size"
            answer = predictor(images)
        except MnistCnnError as error:
            return refused(error)
        if answer.shape != (2, predictor.classes) or answer.dtype != np.float32:
            raise Fault(f"{answer.dtype} {answer.shape} is taken for the probabilities of two images")
        return ACCEPTED

    def _changed(self, content: bytes, random: Random) -> bytes:
        """Change fields of the model: sizes, names, operators, weights; drop or double parts of it."""
        import onnx

        model = onnx.ModelProto.FromString(content)
        messages: list[Any] = list(parts(model))
        words = [
            *self.WORDS,
            *{name for node in model.graph.node for name in (*node.input, *node.output, node.op_type)},
        ]
        for _ in range(random.choice((1, 1, 2, 3))):
            message = random.choice(messages)
            filled: list[tuple[Any, Any]] = message.ListFields()
            if filled:
                with contextlib.suppress(ValueError, TypeError):  # what does not fit is left as it is
                    field, value = random.choice(filled)
                    self._change(message, field, value, sorted(words), random)
        return bytes(model.SerializeToString())

    def _change(self, message: Any, field: Any, value: Any, words: list[str], random: Random) -> None:
        if random.random() < 0.15:
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE:
            if field.is_repeated and random.random() < 0.5:
                del value[random.randrange(len(value))]
            elif field.is_repeated:
                value.add().CopyFrom(random.choice(list(value)))
        elif field.is_repeated:
            value[random.randrange(len(value))] = self._other(field, value[0], words, random)
        else:
            setattr(message, field.name, self._other(field, value, words, random))

    def _other(self, field: Any, value: Any, words: list[str], random: Random) -> Any:
        if field.type == field.TYPE_STRING:
            return random.choice(words)
        if isinstance(value, bytes):
            return mutations.damaged(value, random)
        if isinstance(value, float):
            return random.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
        return random.choice(self.SIZES)


def parts(message: Any) -> list[Any]:
    """Return a Protobuf message and all within it."""
    found = [message]
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                found += parts(inner)
    return found


class KerasModel:
    """model.keras, which is registered as the training wrote it or not at all, and never loaded here."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.folder = folder
        self.run = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
        os.chdir(folder)
        compose_once()

    def draw(self, random: Random) -> Files:
        return {"model.keras": mutations.damaged(self.run["model.keras"], random)}

    def look(self, files: Files) -> str:
        shutil.rmtree(self.folder / "models", ignore_errors=True)
        put_run(self.folder / "runs/run", {**self.run, **files})
        ended = asked("register", "run", "register.name=m", "register.min_accuracy=0")
        if (ended == ACCEPTED) != (files["model.keras"] == self.run["model.keras"]):
            raise Fault(f"{ended}, though it is not what the training wrote")
        return ended


# What a person gives


class Picture:
    """A picture for `predict`, of any format, mode and size."""

    MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB")
    FORMATS = (
        "PNG",
        "JPEG",
        "GIF",
        "BMP",
        "TIFF",
        "WEBP",
        "PPM",
        "ICO",
        "TGA",
        "PDF",
        "EPS",
        "PCX",
        "JPEG2000",
    )

    def __init__(self, _run: Path, folder: Path) -> None:
        self.folder = folder

    def draw(self, random: Random) -> Files:
        choice = random.random()
        if choice < 0.03:
            return {"picture": random.choice(NO_PICTURES)}
        if choice < 0.05:
            return {"picture": self._large(random)}
        content = self._drawn(random)
        return {"picture": mutations.damaged(content, random) if random.random() < 0.85 else content}

    def look(self, files: Files) -> str:
        from mnist_cnn.errors import DataError
        from mnist_cnn.predict import prepare

        put(self.folder, files)
        try:
            image = prepare(self.folder / "picture", 28, 28)
        except DataError as error:
            return refused(error)
        if (image.shape, image.dtype.name) != ((28, 28), "uint8") or not image.any():
            raise Fault(f"{image.dtype} {image.shape} is taken for a picture of a digit")
        return ACCEPTED

    def _drawn(self, random: Random) -> bytes:
        """Draw a digit, in some mode, and save it in some format, with options of its own."""
        from PIL import Image, ImageDraw

        side = random.choice((1, 2, 28, 60, 200))
        image = Image.new("L", (side, random.choice((1, side, side))), random.choice((0, 127, 255)))
        ImageDraw.Draw(image).line(
            [(side * 0.4, side * 0.2), (side * 0.5, side * 0.8)], random.choice((0, 60, 255)), 1 + side // 10
        )
        return saved(image, random.choice(self.MODES), random.choice(self.FORMATS), random)

    def _large(self, random: Random) -> bytes:
        """Make a small file of a picture with up to 100 million pixels, or whose header claims more."""
        from PIL import Image

        mode = random.choice(("1", "L", "RGB", "RGBA", "LA", "P", "I;16"))
        size = random.choice(((9400, 9400), (6000, 6000), (20_000, 3000), (2**16 - 1, 1000)))
        kind = random.choice(("PNG", "TIFF")) if mode in ("1", "I;16", "P") else "PNG"
        image = Image.new(mode, size)
        image.paste(
            {"RGB": (255, 255, 255), "RGBA": (9, 9, 9, 255), "LA": (0, 255)}.get(mode, 1), (10, 10, 900, 900)
        )
        options: dict[str, Any] = {"compress_level": 1} if kind == "PNG" else {"compression": "tiff_lzw"}
        file = io.BytesIO()
        image.save(file, kind, **options)
        content = file.getvalue()
        if kind == "PNG" and random.random() < 0.3:
            content = content[:16] + random.randbytes(4) + content[20:]
        return content


def saved(image: Image.Image, mode: str, kind: str, random: Random) -> bytes:
    """Save a picture in a mode and a format that may not go together: then as it is, as PNG."""
    from PIL import Image

    options: dict[str, Any] = {}
    if kind in ("GIF", "TIFF", "WEBP", "PNG") and random.random() < 0.2:
        options = {"save_all": True, "append_images": [image.rotate(90), image]}
    if random.random() < 0.2:
        exif = Image.Exif()
        exif[0x0112] = random.choice((1, 3, 6, 8, 99))
        options["exif"] = exif
    file = io.BytesIO()
    try:
        converted = image if mode == image.mode else image.convert(mode)
        if "A" in mode and random.random() < 0.5:
            converted.putalpha(image)
        converted.save(file, kind, **options)
    except (OSError, ValueError, KeyError, TypeError):
        file = io.BytesIO()
        image.save(file, "PNG")
    return file.getvalue()


NO_PICTURES = (
    *(
        b"",
        b"\0",
        b"seven",
        b"%PDF-1.7\n",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"RIFF\0\0\0\0WEBP",
    ),
    b'<svg xmlns="http://www.w3.org/2000/svg"><text>7</text></svg>',
    b"P6 100000 100000 255\n",
    b"P5 9000 9000 65535\n",
    b"P3 2 2 255\n1 2 3",
    b"P1 " + b"9" * 5000,
    b"\xff\xd8\xff" + b"\xff" * 1000,
    b"GIF89a\xff\xff\xff\xff\xf7\0\0" + b"\0" * 2000,
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
)


def draw_digit(path: Path) -> None:
    """Draw a 1 as a person might."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (200, 200), "white")
    ImageDraw.Draw(image).line([(95, 40), (105, 160)], "black", 14)
    image.save(path)


class Workspace:
    """The workspace's config.json."""

    SOUND = (
        {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"},
        {"Scope": "/subscriptions/s/resourceGroups/g/providers/Microsoft.ML/workspaces/w"},
    )

    def __init__(self, _run: Path, folder: Path) -> None:
        self.folder = folder

    def draw(self, random: Random) -> Files:
        content = json.dumps(random.choice(self.SOUND)).encode()
        mark = b"\xef\xbb\xbf" if random.random() < 0.1 else b""
        return {"config.json": mark + mutations.damaged_json(content, random)}

    def look(self, files: Files) -> str:
        from mnist_cnn.backends.azure.checks import find_workspace
        from mnist_cnn.errors import ConfigurationError

        put(self.folder, files)
        try:
            found = find_workspace(str(self.folder))
        except ConfigurationError as error:
            return refused(error)
        if not all(isinstance(value, str) and value for value in dataclasses.astuple(found)):
            raise Fault(f"{found} is taken for a workspace")
        return ACCEPTED


class Settings:
    """A YAML file of a --config-dir."""

    NOT_YAML = (
        *(
            b"",
            b"\0",
            b"[1, 2]",
            b"3",
            b"a: [",
            b"a: &a [*a]",
            b"%YAML 9.9\n---\na: 1",
            b"\xff\xfee\0p\0",
            b"- a\n- b",
        ),
        *(
            b"a: " + b"[" * 5000,
            b"{" * 3000,
            b"epochs: " + b"9" * 5000,
            b"epochs: 1e400",
            b"epochs: ${epochs}",
        ),
        *(
            b"defaults: [chosen]",
            b"defaults: [x]",
            b"defaults: 3",
            b"defaults: [{a: b}]",
            b"defaults: [_self_, quick]",
        ),
        *(
            b"epochs: ${oc.env:NO_SUCH}",
            b"epochs: ${a:b}",
            b"epochs: ???",
            b"? [1]\n: 2",
            b"1: 2",
            b"null: 3",
            b"epochs: 2026-01-01",
        ),
        b'!!python/object/apply:os.system ["touch pwned"]',
        b"".join(
            b"%c: &%c [%s]\n" % (97 + i, 97 + i, b",".join([b"*%c" % (96 + i) if i else b"x"] * 9))
            for i in range(9)
        ),
    )

    def __init__(self, _run: Path, folder: Path) -> None:
        from mnist_cnn.config import CONF_DIR

        self.folder = folder / "conf" / "train"
        self.folder.mkdir(parents=True)
        self.sound = (CONF_DIR / "train" / "balanced.yaml").read_bytes()
        os.chdir(folder)

    def draw(self, random: Random) -> Files:
        if random.random() < 0.2:
            return {"chosen.yaml": random.choice(self.NOT_YAML)}
        return {"chosen.yaml": mutations.damaged(self.sound, random, self.NOT_YAML)}

    def look(self, files: Files) -> str:
        from mnist_cnn import compose
        from mnist_cnn.errors import MnistCnnError

        put(self.folder, files)
        try:
            compose.load(["train=chosen"], [str(self.folder.parent)])
        except MnistCnnError as error:
            return refused(error)
        finally:
            if Path("pwned").exists():
                raise Fault("a settings file ran a command")
        return ACCEPTED


class Network:
    """A network file for model.file, which is read and parsed here, and not run."""

    SOUND = b"import keras\n\n\ndef build(config, input_shape, num_classes):\n    return keras.Sequential()\n"
    NO_PYTHON = (
        *(
            b"\0",
            b"def build(",
            b"\xff\xfe",
            b"(" * 5000,
            b"-" * 200_000 + b"1",
            b"x" + b".a" * 100_000,
            b"[" * 150 + b"]" * 150,
        ),
        *(
            b"#coding: rot13\n",
            b"# coding: no-such\ndef build(): pass",
            b"a=" * 50_000 + b"1",
            b"1" * 5000,
            b"f'{" * 200,
        ),
    )

    def __init__(self, _run: Path, folder: Path) -> None:
        self.file = folder / "network.py"

    def draw(self, random: Random) -> Files:
        return {self.file.name: mutations.damaged(self.SOUND, random, self.NO_PYTHON)}

    def look(self, files: Files) -> str:
        from mnist_cnn import launch
        from mnist_cnn.errors import MnistCnnError

        put(self.file.parent, files)
        try:
            launch.make_job(f"model.file={self.file}")
        except MnistCnnError as error:
            return refused(error)
        return ACCEPTED


def of_run(name: str, status: str | None = None) -> Callable[[Path, Path], Reader]:
    """Return a reader of one file of the run folder, of a run with this status."""
    return lambda run, folder: RunFile(run, folder, name, status)


KINDS: dict[str, Kind] = {
    "IDX": Kind(Idx, 1, 16),
    "data.dir": Kind(DataFolder, 0.1, 16),
    "run.json": Kind(of_run("run.json"), 0.03, 64),
    "job.json": Kind(of_run("job.json", "failed"), 0.02, 64),
    "result.json": Kind(of_run("result.json"), 0.02, 64),
    "metrics.jsonl": Kind(of_run("metrics.jsonl"), 0.01, 64),
    "progress.json": Kind(of_run("progress.json", "running"), 0.01, 64),
    "model.json": Kind(Registered, 0.01, 64),
    "checkpoint": Kind(Checkpoints, 0.05, 256),
    "model.onnx": Kind(Onnx, 0.1, 256),
    "model.keras": Kind(KerasModel, 0.005, 64),
    "picture": Kind(Picture, 0.05, 1200),
    "config.json": Kind(Workspace, 0.1, 16),
    "conf/*.yaml": Kind(Settings, 0.01, 128),
    "model.file": Kind(Network, 0.005, 128),
}
