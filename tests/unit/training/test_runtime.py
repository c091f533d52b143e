"""What a runtime records of this process, and what differs between two runtimes."""

from __future__ import annotations

import dataclasses

import pytest

from mnist_cnn import cpu
from mnist_cnn.training import runtime
from mnist_cnn.training.runtime import Runtime


@pytest.mark.parametrize(
    ("configured", "variable", "threads"),
    [(3, "5", 3), (None, "5", 5), (0, " 5 ", 5), (None, "many", cpu.count()), (None, "0", cpu.count())],
)
def test_the_threads_are_those_that_tensorflow_uses(
    monkeypatch: pytest.MonkeyPatch, configured: int | None, variable: str, threads: int
) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", variable)
    assert Runtime.here("float32", "cpu", configured).threads == threads


def test_only_variables_that_choose_kernels_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in runtime.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setenv("TF_PASSWORD", "planted")
    assert Runtime.here("float32", "cpu").environment == {"TF_ENABLE_ONEDNN_OPTS": "0"}
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")  # the trainer's default
    assert Runtime.here("float32", "cpu").environment == {}


BEFORE = Runtime("float32", "cpu", "x86_64 avx2", 2, {}, {"OMP_NUM_THREADS": "1"}, "a" * 64)
NUMBERS = "the numbers that the first steps compute (fingerprint bbbbbbbb, was aaaaaaaa"


def test_processor_threads_and_variables_alone_change_nothing() -> None:
    now = dataclasses.replace(BEFORE, processor="aarch64", threads=9, environment={})
    assert BEFORE.changes_to(now) == ()


def test_another_fingerprint_is_described_by_what_else_differs() -> None:
    environment = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    now = dataclasses.replace(BEFORE, threads=1, environment=environment, fingerprint="b" * 64)
    assert BEFORE.changes_to(now) == (
        f"{NUMBERS})",
        "threads 1 (was 2)",
        "OMP_NUM_THREADS not set (was 1)",
        "ONEDNN_MAX_CPU_ISA=AVX2 (was not set)",
    )


def test_another_fingerprint_may_have_no_known_reason() -> None:
    now = dataclasses.replace(BEFORE, fingerprint="b" * 64)
    assert BEFORE.changes_to(now) == (f"{NUMBERS}; nothing else that is recorded differs)",)


def test_all_that_differs_is_listed_for_another_job() -> None:
    """Its fingerprint would differ anyway, so it cannot tell whether this machine does."""
    now = dataclasses.replace(BEFORE, threads=1, fingerprint="b" * 64)
    assert BEFORE.changes_to(now, is_same_job=False) == ("threads 1 (was 2)",)


def test_the_difference_of_two_machines_names_both() -> None:
    now = dataclasses.replace(BEFORE, threads=1, fingerprint="b" * 64)
    assert BEFORE.changes_to(now, before="worker 0:") == (
        f"{NUMBERS.replace('was', 'worker 0:')})",
        "threads 1 (worker 0: 2)",
    )
