"""What a job's digest depends on, and how two jobs differ, with native and with exact numerics."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from mnist_cnn import launch
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.job import Job

EXACT = ("train.numerics=exact",)
OLD_JOBS = sorted((Path(__file__).parents[1] / "data" / "runs-of-schema-1").glob("*/job.json"))
NATIVE_DIGEST = "d8194d351d259f4d1a5b020d543b897e81ea9044fd1724ed3074e5005093f2da"
"""Of the tutorial's job. It may never change, because runs and registered models record it."""


def job(*overrides: str) -> Job:
    return launch.make_job(*overrides)


def digest(*overrides: str) -> str:
    return job(*overrides).digest


def test_native_digests_are_those_of_earlier_versions() -> None:
    assert digest() == NATIVE_DIGEST
    assert OLD_JOBS
    for path in OLD_JOBS:
        assert Job.from_json(path.read_text()).has_digest(json.loads(path.read_text())["digest"])


RATES = {"adadelta": 1.0, "adam": 0.001, "adamw": 0.001, "rmsprop": 0.001, "sgd": 0.1}


@pytest.mark.parametrize(("optimizer", "rate"), RATES.items())
def test_a_job_has_the_rate_of_its_optimizer_unless_it_is_set(optimizer: str, rate: float) -> None:
    chosen = f"train.optimizer={optimizer}"
    assert json.loads(job(chosen).to_json())["train"]["learning_rate"] == rate
    assert digest(chosen) == digest(chosen, f"train.learning_rate={rate}")
    assert digest(chosen) != digest(chosen, "train.learning_rate=0.02")
    assert f"{optimizer}, learning rate {rate:g}," in str(launch.plan(chosen))


def test_a_job_has_the_number_of_classes_of_its_labels_unless_it_is_set(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 3)):
        header = struct.pack(">4B3I", 0, 0, 8, 3, count, 8, 8)
        (tmp_path / f"{part}-images").write_bytes(header + bytes(count * 64))
        labels = bytes(index % 3 for index in range(count))
        (tmp_path / f"{part}-labels").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, count) + labels)
    folder = f"data.dir={tmp_path}"
    assert job(folder).data.num_classes == 3
    assert digest(folder) == digest(folder, "data.num_classes=3") != digest(folder, "data.num_classes=10")
    assert "dense 3" in str(launch.plan(folder))


def test_exact_bits_do_not_matter_to_a_native_job() -> None:
    assert digest("train.exact_bits=9") == digest()
    assert digest("train.threads=3") != digest()
    assert digest("train.precision=auto") != digest("train.precision=bfloat16")


def test_threads_do_not_matter_to_an_exact_job_but_bits_do() -> None:
    exact = digest("train.numerics=exact")
    assert exact != digest()
    assert digest("train.numerics=exact", "train.threads=3") == exact
    assert digest("train.numerics=exact", "train.checkpoint_every=2", "save_h5=true") == exact
    assert digest("train.numerics=exact", "train.exact_bits=8") != exact
    assert digest("train.numerics=exact", "train.precision=bfloat16") != exact


def test_automatic_precision_of_an_exact_job_is_bfloat16() -> None:
    automatic = job("train.numerics=exact", "train.precision=auto")
    bfloat16 = job("train.numerics=exact", "train.precision=bfloat16")
    assert automatic.digest == bfloat16.digest
    assert automatic.changes_to(bfloat16) == ()


@pytest.mark.parametrize(
    ("then", "now", "changes"),
    [
        ((), ("train.numerics=exact",), ("train.numerics=exact (was native)",)),
        (("train.numerics=exact",), (), ("train.numerics=native (was exact)",)),
        (("train.exact_bits=9",), (), ()),
        ((*EXACT, "train.exact_bits=9"), EXACT, ("train.exact_bits=7 (was 9)",)),
        ((*EXACT, "train.threads=2"), (*EXACT, "train.threads=1"), ()),
        (("train.threads=2",), ("train.threads=1",), ("train.threads=1 (was 2)",)),
        (
            ("train.numerics=exact", "train.exact_bits=9"),
            ("train.threads=2",),
            (
                    "train.threads=2 (was null)",
                    "train.numerics=native (was exact)",
                    "train.exact_bits=7 (was 9)",
                ),
        ),
    ],
)  # fmt: skip
def test_changes_name_what_decides_the_weights(
    then: tuple[str, ...], now: tuple[str, ...], changes: tuple[str, ...]
) -> None:
    assert sorted(job(*then).changes_to(job(*now))) == sorted(changes)
    assert (job(*then).digest == job(*now).digest) is (not changes)


def test_a_job_without_the_keys_of_exact_numerics_is_native() -> None:
    written = json.loads(job().to_json())
    for name in ("numerics", "exact_bits"):
        del written["train"][name]
    read = Job.from_json(json.dumps(written))
    assert read == job()
    assert read.digest == NATIVE_DIGEST


def test_an_exact_job_survives_its_file_and_detects_other_bits() -> None:
    exact = job("train.numerics=exact", "train.precision=auto", "train.threads=2")
    assert Job.from_json(exact.to_json()) == exact
    changed = exact.to_json().replace('"exact_bits": 7', '"exact_bits": 8')
    with pytest.raises(ConfigurationError, match="its digest does not match its content"):
        Job.from_json(changed)
