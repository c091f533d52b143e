"""What the CPU's features and oneDNN's variables allow."""

from __future__ import annotations

import os

import pytest

from mnist_cnn import cpu
from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError

WITH_BFLOAT16 = ("avx2", "avx512_bf16", "avx512f", "fma")
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux on an x86-64 processor with bfloat16 instructions, and none of the variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu, "features", lambda: WITH_BFLOAT16)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.mark.parametrize("prefix", ["ONEDNN", "DNNL"])
@pytest.mark.parametrize(
    ("limit", "expected"),
    [("", True), ("default", True), ("ALL", True), ("avx512_core_bf16", True), ("AVX512_CORE_AMX", True),
     ("AVX10_1_512", True), ("misspelt", True), ("AVX512_CORE_VNNI", False), ("AVX512_CORE", False),
     ("avx512_core", False), ("AVX2_VNNI_2", False), ("AVX2", False), ("SSE41", False)],
)  # fmt: skip
def test_a_limit_of_onednn_may_exclude_bfloat16_kernels(
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
    limit: str,
    expected: bool,  # noqa: FBT001 - a parameter
) -> None:
    monkeypatch.setenv(f"{prefix}_MAX_CPU_ISA", limit)
    assert cpu.has_bfloat16_kernels() is expected


@pytest.mark.parametrize(("onednn", "expected"), [("AVX2", False), ("ALL", True), ("", False)])
def test_onednn_reads_its_newer_variable_first_unless_it_is_empty(
    monkeypatch: pytest.MonkeyPatch,
    onednn: str,
    expected: bool,  # noqa: FBT001 - a parameter
) -> None:
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX512_CORE" if expected or not onednn else "ALL")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", onednn)
    assert cpu.has_bfloat16_kernels() is expected


@pytest.mark.parametrize(
    ("value", "expected"), [("0", False), ("false", False), ("False", False), ("1", True)]
)
def test_without_onednn_there_are_no_bfloat16_kernels(
    monkeypatch: pytest.MonkeyPatch,
    value: str,
    expected: bool,  # noqa: FBT001 - a parameter
) -> None:
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", value)
    assert cpu.has_bfloat16_kernels() is expected


@pytest.mark.parametrize(
    ("machine", "given", "expected"),
    [("x86_64", None, "1"), ("x86_64", "0", "0"), ("aarch64", None, None)],
)
def test_onednn_is_used_on_every_x86_64_unless_the_user_decides(
    monkeypatch: pytest.MonkeyPatch, machine: str, given: str | None, expected: str | None
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("os.environ", {} if given is None else {cpu.ONEDNN: given})
    cpu.enable_onednn()
    assert os.environ.get(cpu.ONEDNN) == expected


def test_only_x86_64_processors_with_bfloat16_have_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not cpu.has_bfloat16_kernels()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "features", lambda: ("avx2", "avx512f", "fma"))
    assert not cpu.has_bfloat16_kernels()


@pytest.mark.parametrize(
    ("system", "machine_name", "features", "said"),
    [("Linux", "aarch64", ("bf16",), "this is Linux on aarch64"), ("Darwin", "arm64", (), "Darwin on arm64"),
     ("Windows", "AMD64", (), "Windows on AMD64"), ("Linux", "x86_64", ("avx",), "a processor without FMA")],
)  # fmt: skip
def test_a_machine_that_was_never_compared_cannot_train_exactly(
    monkeypatch: pytest.MonkeyPatch, system: str, machine_name: str, features: tuple[str, ...], said: str
) -> None:
    cpu.check_exact("auto")
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine_name)
    monkeypatch.setattr(cpu, "features", lambda: features)
    with pytest.raises(BackendError, match=said) as caught:
        cpu.check_exact("cpu")
    assert "train.numerics=native" in caught.value.hint


def test_a_gpu_cannot_train_exactly() -> None:
    with pytest.raises(ConfigurationError, match=r"backend\.device=gpu") as caught:
        cpu.check_exact("gpu")
    assert isinstance(caught.value, MnistCnnError)
    assert "leave out backend.device=gpu" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "value", "is_refused"),
    [("ONEDNN_DEFAULT_FPMATH_MODE", "bf16", True), ("ONEDNN_DEFAULT_FPMATH_MODE", "strict", False),
     ("TF_XLA_FLAGS", "--tf_xla_auto_jit=2", True), ("TF_XLA_FLAGS", "--tf_xla_clustering_debug", False)],
)  # fmt: skip
def test_variables_that_change_products_are_refused_for_exact_training(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    is_refused: bool,  # noqa: FBT001 - a parameter
) -> None:
    monkeypatch.setenv(name, value)
    if not is_refused:
        return cpu.check_exact("auto")
    with pytest.raises(ConfigurationError, match=name) as caught:
        cpu.check_exact("auto")
    assert f"unset {name}" in caught.value.hint
    return None
