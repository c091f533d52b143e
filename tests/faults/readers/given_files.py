"""Damaged files that users provide: pictures, a workspace's config.json, settings and networks."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from mnist_cnn import compose, launch
from mnist_cnn.backends.azure.checks import find_workspace
from mnist_cnn.config import CONF_DIR
from mnist_cnn.errors import ConfigurationError, DataError, MnistCnnError
from mnist_cnn.prediction.pictures import prepare

from . import mutations
from .reader import ACCEPTED, Fault, Files, Reader, put


class Picture(Reader):
    """A picture for `predict`, of any format, mode and size."""

    MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "HSV", "LAB")
    FORMATS = (
        *("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"),
        *("ICO", "TGA", "PDF", "EPS", "PCX", "JPEG2000"),
    )
    refusals = DataError

    def draw(self, random: Random) -> Files:
        choice = random.random()
        if choice < 0.03:
            return {"picture": random.choice(NO_PICTURES)}
        if choice < 0.05:
            return {"picture": self._large(random)}
        content = self._drawn(random)
        return {"picture": mutations.damaged(content, random) if random.random() < 0.85 else content}

    def read(self, files: Files) -> str:
        put(self.folder, files)
        image = prepare(self.folder / "picture", 28, 28).image
        if (image.shape, image.dtype.name) != ((28, 28), "uint8") or not image.any():
            raise Fault(f"{image.dtype} {image.shape} was returned as the picture of a digit")
        return ACCEPTED

    def _drawn(self, random: Random) -> bytes:
        """Draw a digit and save it in a random mode and format."""
        side = random.choice((1, 2, 28, 60, 200))
        image = Image.new("L", (side, random.choice((1, side, side))), random.choice((0, 127, 255)))
        ImageDraw.Draw(image).line(
            [(side * 0.4, side * 0.2), (side * 0.5, side * 0.8)], random.choice((0, 60, 255)), 1 + side // 10
        )
        return saved(image, random.choice(self.MODES), random.choice(self.FORMATS), random)

    def _large(self, random: Random) -> bytes:
        """Make a small file with up to 100 million pixels, or with a header that claims more."""
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
    """Save a picture in a mode and a format; as PNG if they don't fit together."""
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
    *(b"", b"\0", b"seven", b"%PDF-1.7\n", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"),
    b"RIFF\0\0\0\0WEBP",
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
    """Draw a handwritten 1."""
    image = Image.new("L", (200, 200), "white")
    ImageDraw.Draw(image).line([(95, 40), (105, 160)], "black", 14)
    image.save(path)


class Workspace(Reader):
    """The workspace's config.json."""

    SOUND = (
        {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"},
        {"Scope": "/subscriptions/s/resourceGroups/g/providers/Microsoft.ML/workspaces/w"},
    )
    refusals = ConfigurationError

    def draw(self, random: Random) -> Files:
        content = json.dumps(random.choice(self.SOUND)).encode()
        mark = b"\xef\xbb\xbf" if random.random() < 0.1 else b""
        return {"config.json": mark + mutations.damaged_json(content, random)}

    def read(self, files: Files) -> str:
        put(self.folder, files)
        found = find_workspace(str(self.folder))
        if not all(isinstance(value, str) and value for value in dataclasses.astuple(found)):
            raise Fault(f"{found} is taken for a workspace")
        return ACCEPTED


class Settings(Reader):
    """A YAML file of a --config-dir."""

    NOT_YAML = (
        *(b"", b"\0", b"[1, 2]", b"3", b"a: [", b"a: &a [*a]", b"%YAML 9.9\n---\na: 1", b"\xff\xfee\0p\0"),
        *(b"- a\n- b", b"a: " + b"[" * 5000, b"{" * 3000, b"epochs: " + b"9" * 5000, b"epochs: 1e400"),
        *(b"defaults: [chosen]", b"defaults: [x]", b"defaults: 3", b"defaults: [{a: b}]"),
        *(b"defaults: [_self_, quick]", b"epochs: ${epochs}", b"epochs: ${oc.env:NO_SUCH}"),
        *(b"epochs: ${a:b}", b"epochs: ???", b"? [1]\n: 2", b"1: 2", b"null: 3", b"epochs: 2026-01-01"),
        b'!!python/object/apply:os.system ["touch pwned"]',
        b"".join(
            b"%c: &%c [%s]\n" % (97 + i, 97 + i, b",".join([b"*%c" % (96 + i) if i else b"x"] * 9))
            for i in range(9)
        ),
    )
    refusals = MnistCnnError

    def __init__(self, run: Path, folder: Path) -> None:
        super().__init__(run, folder / "conf" / "train")
        self.sound = (CONF_DIR / "train" / "balanced.yaml").read_bytes()
        os.chdir(folder)

    def draw(self, random: Random) -> Files:
        if random.random() < 0.2:
            return {"chosen.yaml": random.choice(self.NOT_YAML)}
        return {"chosen.yaml": mutations.damaged(self.sound, random, self.NOT_YAML)}

    def read(self, files: Files) -> str:
        put(self.folder, files)
        try:
            compose.load(["train=chosen"], [str(self.folder.parent)])
        finally:
            if Path("pwned").exists():
                raise Fault("a settings file ran a command")
        return ACCEPTED


class Network(Reader):
    """A network file for model.file; it is parsed, but not run."""

    SOUND = b"import keras\n\n\ndef build(config, input_shape, num_classes):\n    return keras.Sequential()\n"
    NO_PYTHON = (
        *(b"\0", b"def build(", b"\xff\xfe", b"(" * 5000, b"-" * 200_000 + b"1", b"x" + b".a" * 100_000),
        *(b"[" * 150 + b"]" * 150, b"#coding: rot13\n", b"# coding: no-such\ndef build(): pass"),
        *(b"a=" * 50_000 + b"1", b"1" * 5000, b"f'{" * 200),
    )
    refusals = MnistCnnError

    def draw(self, random: Random) -> Files:
        return {"network.py": mutations.damaged(self.SOUND, random, self.NO_PYTHON)}

    def read(self, files: Files) -> str:
        put(self.folder, files)
        launch.make_job(f"model.file={self.folder / 'network.py'}")
        return ACCEPTED
