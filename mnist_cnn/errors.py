"""The tree of errors that users can meet.

    MnistCnnError
    ├── ConfigurationError   2   a key, a value, a name, a folder that is already a run
    ├── DataError            3   a damaged or missing data set or picture
    ├── BackendError         4   device, disk or service
    ├── TrainingError        5   the training itself failed
    ├── RunCancelled         6   the run was cancelled
    ├── RunPaused            7   the run has reached pause_after and is paused
    └── Interrupted        130   Ctrl-C, or detached from a run that is still running

The numbers are exit codes. An error has a message (what happened) and a hint (what to do). The code that
understands a foreign exception translates it with `raise ... from`, which keeps the cause. Passwords, keys
and tokens are redacted, because errors are printed, logged, sent and saved in notebooks.
"""

from __future__ import annotations

import errno
from typing import ClassVar

from mnist_cnn.redaction import redact
from mnist_cnn.version import PYTHON_NEEDED, installation_hint

MAX_LENGTH = 2000
"""Most characters of a message or a hint.

One path can have several hundred.
"""


class MnistCnnError(Exception):
    """An error with a message and a hint.

    Each is one line; the error's text is both lines.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = _shortened(redact(message))
        self.hint = hint
        super().__init__(self.message)

    @property
    def hint(self) -> str:
        """What to do."""
        return self._hint

    @hint.setter
    def hint(self, hint: str) -> None:
        self._hint = _shortened(redact(hint))

    def then(self, hint: str) -> None:
        """Append what to do next to the hint."""
        self.hint = f"{self.hint}; then {hint}" if self.hint else hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


def _shortened(text: str) -> str:
    """Cut the middle out of a long text.

    A damaged file may hold any value.
    """
    if len(text) <= MAX_LENGTH:
        return text
    return f"{text[: MAX_LENGTH // 2]} ... {text[-MAX_LENGTH // 4 :]}"


class ConfigurationError(MnistCnnError):
    exit_code = 2


class NeedsForceError(ConfigurationError):
    """A run that is only resumed with `force=true`."""


class DataError(MnistCnnError):
    exit_code = 3


class BackendError(MnistCnnError):
    exit_code = 4


class TrainingError(MnistCnnError):
    exit_code = 5


class RunCancelled(MnistCnnError):  # noqa: N818 - an outcome that ends a run, like KeyboardInterrupt
    exit_code = 6


class RunPaused(MnistCnnError):  # noqa: N818 - as above
    exit_code = 7


class Interrupted(MnistCnnError):  # noqa: N818 - as above
    exit_code = 130


ERRORS_BY_EXIT_CODE: dict[int, type[MnistCnnError]] = {
    error.exit_code: error
    for error in (
        ConfigurationError,
        DataError,
        BackendError,
        TrainingError,
        RunCancelled,
        RunPaused,
        Interrupted,
    )
}


def storage_error(error: OSError, what: str, setting: str = "") -> BackendError:
    """Translate a failed write of `what`.

    `setting`, if any, is the override that moves it elsewhere.
    """
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = f"free some space there{setting and f', or choose another disk with {setting}'}"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = f"choose a folder that you may write to with {setting}" if setting else "make it writable"
    else:
        hint = f"check that folder and its disk{setting and f', or choose another with {setting}'}"
    return BackendError(f"cannot write {what}: {reason}", hint)


def start_error(program: str, error: OSError) -> BackendError:
    """Translate why a program could not be started."""
    message = f"cannot start {program}: {error.strerror}"
    return BackendError(message, "check that this program exists and may be executed")


def unexpected_error(error: Exception) -> MnistCnnError:
    """Translate an exception that no other code has translated.

    It may come from a file, a stream, the installation or a bug.
    """
    if isinstance(error, OSError):
        what = error.filename or "the output or the current folder"
        hint = "check that it exists, and that you may read and write it"
        return BackendError(f"{what}: {error.strerror or error}", hint)
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("mnist_cnn"):
        return ConfigurationError(
            f"{PYTHON_NEEDED}, and {error.name}, which isn't installed", installation_hint()
        )
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return MnistCnnError(f"a bug: {what}", "please report it with the traceback")
