"""What the runs of all backends share: the log, the recorded end, the checks before registering."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.records import write_receipt, write_result

from mnist_cnn import errors, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends import common, local
from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError, RunCancelled, TrainingError


def run_in(folder: Path) -> local.LocalRun:
    return local.LocalRun(folder, folder / "models")


def test_a_log_is_read_in_whole_lines(tmp_path: Path) -> None:
    reader, log = common.LogReader(tmp_path), tmp_path / "log.txt"
    assert list(reader.new_lines()) == []
    written = b""
    half, rest = "ä".encode()[:1], "ä".encode()[1:]
    for part, lines in ((b"one\n\ntw", ["one", ""]), (b"o\n" + half, ["two"]), (rest + b"\nthr", ["ä"])):
        written += part
        log.write_bytes(written)
        assert list(reader.new_lines()) == lines
        assert list(reader.new_lines()) == []
    assert list(reader.new_lines(is_last=True)) == ["thr"]
    assert list(reader.new_lines(is_last=True)) == []


def test_a_line_without_end_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "LINE_BYTES", 4)
    (tmp_path / "log.txt").write_bytes(b"12345678xy")
    reader = common.LogReader(tmp_path)
    assert list(reader.new_lines()) == ["1234", "5678"]
    assert list(reader.new_lines(is_last=True)) == ["xy"]


def test_a_log_that_is_not_text_or_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"\xff\n")
    assert list(common.LogReader(tmp_path).new_lines()) == ["\ufffd"]
    (tmp_path / "log.txt").unlink()
    os.mkfifo(tmp_path / "log.txt")
    with pytest.raises(BackendError, match=r"cannot read .*log\.txt: it is not a file"):
        list(common.LogReader(tmp_path).new_lines())


def test_each_exit_code_gives_its_error_back() -> None:
    kinds: list[type[MnistCnnError]] = [MnistCnnError, *errors.ERRORS_BY_EXIT_CODE.values()]
    for kind in kinds:
        assert common.error_class(kind.exit_code) is kind
    for unknown in (None, 0, 99):
        assert common.error_class(unknown) is BackendError


def test_a_failed_run_raises_what_its_receipt_records(tmp_path: Path) -> None:
    write_receipt(tmp_path, Status.failed, exit_code=5, error="the loss became nan", hint="lower it")
    with pytest.raises(TrainingError, match="the loss became nan") as raised:
        run_in(tmp_path).wait()
    assert raised.value.hint == f"lower it; the log is {tmp_path / 'log.txt'}"


def test_a_run_that_the_backend_failed_names_resume(tmp_path: Path) -> None:
    write_receipt(tmp_path, Status.failed, exit_code=4, error="the disk is full", hint="free it")
    with pytest.raises(BackendError, match="the disk is full") as raised:
        run_in(tmp_path).wait()
    assert raised.value.hint.startswith(
        f"free it; then resume it: python -m mnist_cnn resume {tmp_path}; the log is "
    )


def test_a_cancelled_run_names_resume(tmp_path: Path) -> None:
    write_receipt(tmp_path, Status.cancelled, exit_code=6)
    with pytest.raises(RunCancelled, match="the run was cancelled") as raised:
        run_in(tmp_path).wait()
    assert raised.value.hint == f"resume it: python -m mnist_cnn resume {tmp_path}"


def test_a_completed_run_without_its_result_is_an_error(tmp_path: Path) -> None:
    write_receipt(tmp_path, Status.completed, exit_code=0)
    with pytest.raises(BackendError, match=r"is completed but has no result\.json"):
        run_in(tmp_path).wait()


def test_only_a_completed_accurate_model_may_be_registered(tmp_path: Path) -> None:
    result = write_result(tmp_path, accuracy=0.9)
    check = common.check_can_register
    assert check(tmp_path, Status.completed, "m", 0.9) == result
    with pytest.raises(BackendError, match=r"test accuracy 90\.00% is below register\.min_accuracy=0\.95"):
        check(tmp_path, Status.completed, "m", 0.95)
    with pytest.raises(BackendError, match="is running, not completed"):
        check(tmp_path, Status.running, "m", 0)
    with pytest.raises(ConfigurationError, match=r"register\.name=\.\./m"):
        check(tmp_path, Status.completed, "../m", 0)
    with pytest.raises(ConfigurationError, match=r"register\.min_accuracy=95"):
        check(tmp_path, Status.completed, "m", 95)


def test_repr_shows_the_recorded_status(tmp_path: Path) -> None:
    """The worker is gone, so `status()` would return lost, but repr only reads the receipt."""
    write_receipt(tmp_path, Status.running, pid=1, process_started=0.0)
    run = run_in(tmp_path)
    assert repr(run) == f"<LocalRun {tmp_path}: running>"
    (tmp_path / run_folder.RECEIPT).write_text("{", encoding="utf-8")
    assert repr(run) == f"<LocalRun {tmp_path}: its receipt cannot be read>"
