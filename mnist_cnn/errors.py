"""Every error that a user can meet, as one tree; each class has its exit code.

    MnistCnnError
    ├── ConfigurationError   2   a key, a value, a name, a folder that is already a run
    ├── DataError            3   a data set or a picture that is not what it should be
    ├── BackendError         4   the place where the run was to happen: device, disk, service
    ├── TrainingError        5   the training itself failed
    ├── RunCancelled         6   the run was cancelled
    └── Interrupted        130   Ctrl-C, or detached from a run that goes on

An error has one line that says what happened and one that says what to do. A foreign exception is
translated where it is understood, with `raise ... from`, so that the cause is kept. Whatever an error is made
of, it shows no password, key or token: it may come to be printed, logged, saved in a notebook or sent.
"""

from __future__ import annotations

import errno
from typing import ClassVar

from mnist_cnn.redaction import redact

LONGEST = 2000
"""Characters of a message or a hint, of which a path alone may take some hundreds."""


class MnistCnnError(Exception):
    """What happened (`message`) and what to do about it (`hint`), each one line."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = _shortened(redact(message))
        self.hint = _shortened(redact(hint))
        super().__init__(self.message)


def _shortened(words: str) -> str:
    """Leave out the middle of what is longer than a person reads: a damaged file may hold any value."""
    if len(words) <= LONGEST:
        return words
    return f"{words[: LONGEST // 2]} ... {words[-LONGEST // 4 :]}"


class ConfigurationError(MnistCnnError):
    exit_code = 2


class DataError(MnistCnnError):
    exit_code = 3


class BackendError(MnistCnnError):
    exit_code = 4


class TrainingError(MnistCnnError):
    exit_code = 5


class RunCancelled(MnistCnnError):  # noqa: N818 - it is an outcome that ends a run, like KeyboardInterrupt
    exit_code = 6


class Interrupted(MnistCnnError):  # noqa: N818 - as above
    exit_code = 130


ERRORS_BY_EXIT_CODE: dict[int, type[MnistCnnError]] = {
    error.exit_code: error
    for error in (ConfigurationError, DataError, BackendError, TrainingError, RunCancelled, Interrupted)
}


def storage_error(error: OSError, what: str, elsewhere: str = "runs_dir=FOLDER") -> BackendError:
    """Word a refused write: `what` could not be written, and `elsewhere` is the setting that moves it."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = f"free some space there, or choose another disk with {elsewhere}"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = f"choose a folder that you may write to with {elsewhere}"
    else:
        hint = f"look at that folder and its disk, or choose another with {elsewhere}"
    return BackendError(f"cannot write {what}: {reason}", hint)


def unexpected_error(error: Exception) -> MnistCnnError:
    """Word an exception that nobody has translated: a file or a stream that failed, or a bug."""
    if isinstance(error, OSError):
        what = error.filename or "the output or the current folder"
        hint = "look whether it is there, and whether it may be read and written"
        return BackendError(f"{what}: {error.strerror or error}", hint)
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return MnistCnnError(f"a bug: {what}", "please report it with the traceback")
