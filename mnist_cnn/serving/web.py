"""Writes the page as static files.

They run the model in the browser. ONNX Runtime for browsers is `onnxruntime-web`, a package of npm. The two
files that the page needs are too large for this package, so npm downloads them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn.errors import BackendError, ConfigurationError, storage_error
from mnist_cnn.files import atomic
from mnist_cnn.hints import command_line

if TYPE_CHECKING:
    from mnist_cnn.prediction.predictor import Predictor

PAGE = Path(__file__).parent / "page"
PAGE_FILES = ("index.html", "style.css", "icon.svg", "draw.js", "prepare.js")
RUNTIME = "onnxruntime-web@1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""The hash of that package, as npm writes it."""
RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "ort.js",  # .js, because some servers don't know the type of .mjs
    "ort-wasm-simd-threaded.wasm": "ort.wasm",
}
PLACES = ("", "dist", "package/dist", "node_modules/onnxruntime-web/dist")
"""Where in a folder the runtime's files may lie."""
NPM_SECONDS = 300
OWN_RUNTIME = "name a folder that holds it: --runtime FOLDER"


def export_page(predictor: Predictor, name: str, target: Path, runtime: Path | None = None) -> list[Path]:
    """Write a model's page and return its files.

    The folder is new, and written completely or not at all. `runtime` is a folder with onnxruntime-web;
    without it, npm downloads that.

    Raises:
        ConfigurationError: the folder is not empty, `runtime` lacks a file, or the model takes whole
            pictures, which the page cannot prepare.
        BackendError: npm is missing or fails, or the folder cannot be written.
    """
    if predictor.takes_whole_pictures:
        hint = f"serve it instead: {command_line('serve', 'RUN')}; or train with data.pictures=ink"
        raise ConfigurationError(f"{name} was trained on whole pictures, not on drawn ink", hint)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigurationError(f"{target} is not an empty folder", "name a new one, or remove it first")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, str(target)) from error
    with atomic.new_folder(target) as page, tempfile.TemporaryDirectory() as downloads:
        _write_page(page, predictor, name)
        _write_runtime(page / "runtime", runtime, Path(downloads))
    return sorted(path for path in target.rglob("*") if path.is_file())


def _write_page(page: Path, predictor: Predictor, name: str) -> None:
    for file in PAGE_FILES:
        shutil.copyfile(PAGE / file, page / file)
    shutil.copyfile(PAGE / "run_model.js", page / "classifier.js")
    (page / "model.onnx").write_bytes(predictor.model)
    model = {
        "name": name,
        "height": predictor.height,
        "width": predictor.width,
        "class_names": predictor.class_names,
        "channels_first": predictor.channels_first,
    }
    (page / "model.json").write_text(json.dumps(model, indent=2) + "\n", encoding="utf-8")


def _write_runtime(target: Path, runtime: Path | None, temporary: Path) -> None:
    source = _folder_of_runtime(runtime or download_runtime(temporary))
    target.mkdir()
    for file, short in RUNTIME_FILES.items():
        shutil.copyfile(source / file, target / short)


def _folder_of_runtime(folder: Path) -> Path:
    for place in PLACES:
        if all((folder / place / file).is_file() for file in RUNTIME_FILES):
            return folder / place
    files = " and ".join(RUNTIME_FILES)
    hint = f"unpack {RUNTIME} there, or leave --runtime out to let npm download it"
    raise ConfigurationError(f"--runtime {folder} does not hold {files}", hint)


def download_runtime(folder: Path) -> Path:
    """Download the runtime with npm; return its folder.

    Checks its hash and unpacks it. Raises BackendError.
    """
    npm = shutil.which("npm")
    if npm is None:
        hint = f"install Node.js, which includes npm; or {OWN_RUNTIME}"
        raise BackendError(f"npm not found; it downloads {RUNTIME}", hint)
    command = [npm, "pack", RUNTIME, "--pack-destination", str(folder), "--ignore-scripts", "--silent"]
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NPM_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        hint = f"check the network; or {OWN_RUNTIME}"
        raise BackendError(f"npm did not download {RUNTIME} in {NPM_SECONDS} seconds", hint) from error
    packed = next(folder.glob("*.tgz"), None)
    if ended.returncode or packed is None:
        reason = " ".join(ended.stderr.split()[-40:]) or f"exit code {ended.returncode}"
        hint = f"check the network and npm's registry; or {OWN_RUNTIME}"
        raise BackendError(f"npm could not download {RUNTIME}: {reason}", hint)
    _check_integrity(packed)
    with tarfile.open(packed) as archive:
        for file in RUNTIME_FILES:
            archive.extract(f"package/dist/{file}", folder, filter="data")
    packed.unlink()
    return folder


def _check_integrity(packed: Path) -> None:
    digest = base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        hint = f"check npm's registry; or {OWN_RUNTIME}"
        raise BackendError(f"npm downloaded another {RUNTIME} than the published one", hint)
