"""Damaged files of a run folder: each is an error that names the file, or counts as missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from helpers.records import ROW, write_receipt, write_result

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError
from mnist_cnn.result import Result

HUGE = "1" + 400 * "0"
PROGRESS = (
    '{"status": "bogus"}',
    '{"status": "running", "step": "1"}',
    f'{{"status": "running", "loss": {HUGE}}}',
    '{"status": "running", "loss": "x"}',
    '{"status": "running", "step": NaN}',
    "[" * 100_000,
)


@pytest.mark.parametrize("damage", PROGRESS)
def test_a_damaged_progress_file_counts_as_missing(tmp_path: Path, damage: str) -> None:
    (tmp_path / "progress.json").write_text(damage)
    assert run_folder.read_progress(tmp_path) is None


def test_a_progress_file_that_cannot_be_removed_hides_no_error(tmp_path: Path) -> None:
    write_receipt(tmp_path, Status.running)
    (tmp_path / "progress.json").mkdir()
    run_folder.record_end(tmp_path, Status.failed, BackendError("the disk is full"))
    assert run_folder.read_receipt(tmp_path).error == "the disk is full"


RESULT = (
    *('"accuracy": "x"', '"loss": NaN', f'"loss": {HUGE}', '"versions": []'),
    '"files": {"../x": {"bytes": 1, "sha256": ""}}',
    '"files": {"x": {"bytes": "1", "sha256": ""}}',
)


@pytest.mark.parametrize("damage", RESULT)
def test_a_damaged_result_is_an_error(tmp_path: Path, damage: str) -> None:
    result = json.loads(write_result(tmp_path / "run").to_json()) | json.loads(f"{{{damage}}}")
    del result["sha256"]  # as in schema 1, so that the value itself is refused
    (tmp_path / "run" / "result.json").write_text(json.dumps(result | {"schema": 1}))
    with pytest.raises(BackendError, match=r"run/result\.json is not a result"):
        launch.attach_to(tmp_path / "run").wait()


def test_a_result_changed_by_hand_is_refused(tmp_path: Path) -> None:
    write_result(tmp_path / "run", accuracy=0.465)
    path = tmp_path / "run" / "result.json"
    path.write_text(path.read_text().replace("0.465", "0.965"))
    run = launch.attach_to(tmp_path / "run", (f"register.dir={tmp_path / 'models'}",))
    for read in (run.wait, lambda: run.register("m", min_accuracy=0)):
        with pytest.raises(BackendError, match=r"result\.json is not a result: its checksum") as raised:
            read()
        assert raised.value.hint == f"rebuild it: python -m mnist_cnn resume {run.folder}"
    assert not (tmp_path / "models").exists()


def test_a_result_that_lost_its_checksum_is_refused_but_not_in_schema_1(tmp_path: Path) -> None:
    result = write_result(tmp_path)
    content = json.loads(result.to_json())
    del content["sha256"]
    with pytest.raises(BackendError, match="its checksum"):
        Result.from_json(json.dumps(content))
    assert Result.from_json(json.dumps(content | {"schema": 1})) == result


@pytest.mark.parametrize("damage", ["null", '"1"', "[]", "NaN", HUGE])
def test_a_damaged_history_is_an_error(tmp_path: Path, damage: str) -> None:
    run_folder.write_history(tmp_path, [ROW])
    (sound,) = run_folder.read_history(tmp_path)
    text = json.dumps(dataclasses.asdict(sound) | {"seconds": json.loads(damage)})
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(BackendError, match=r"metrics\.jsonl"):
        run_folder.read_history(tmp_path)


RECEIPT = (
    *("{", "[]", '{"schema": 2}'),
    *('"created": "yesterday"', '"pid": "yesterday"', '"url": 1', f'"process_started": {HUGE}'),
)


@pytest.mark.parametrize("damage", RECEIPT)
def test_a_damaged_receipt_is_an_error_and_hides_no_other_run(tmp_path: Path, damage: str) -> None:
    for name in ("good", "bad"):
        write_receipt(tmp_path / name, Status.running)
    if damage.startswith('"'):
        receipt = json.loads((tmp_path / "bad" / "run.json").read_text())
        damage = json.dumps(receipt | json.loads(f"{{{damage}}}"))
    (tmp_path / "bad" / "run.json").write_text(damage)
    assert run_folder.all_runs(str(tmp_path)) == [tmp_path / "good"]
    with pytest.raises(BackendError, match=r"bad/run\.json"):
        launch.attach_to(tmp_path / "bad")
