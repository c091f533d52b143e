"""What a service inherits that defines only what it must."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mnist_cnn import launch
from mnist_cnn.backends.remote.service import CHECKPOINTS, BaseService, Handle
from mnist_cnn.config import BackendConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.settings import setting

if TYPE_CHECKING:
    from mnist_cnn.job import Job


@dataclasses.dataclass(frozen=True)
class PlainConfig(BackendConfig):
    url: str = setting("http://here", "the service")


class PlainService(BaseService):
    def __init__(self) -> None:
        self.config = PlainConfig(name="plain")

    def request(self, job: Job, *, force: bool = False, pause_after: int | None = None) -> str:
        if job.seed == 1:
            raise ConfigurationError("not this one", "another")
        return f"{job.digest} {force} {pause_after}"


def test_the_receipt_gets_every_setting_except_the_name() -> None:
    assert PlainService().settings() == {"url": "http://here"}


def test_no_two_runs_have_one_id() -> None:
    service = PlainService()
    assert service.new_id() != service.new_id()


def test_the_check_makes_the_request() -> None:
    PlainService().check(launch.make_job())
    with pytest.raises(ConfigurationError, match="not this one"):
        PlainService().check(launch.make_job("seed=1"))


def test_the_check_refuses_a_network_that_cannot_be_exact(tmp_path: Path) -> None:
    network = tmp_path / "network.py"
    network.write_text("def build(config, input_shape, num_classes):\n    raise ValueError('none today')\n")
    job = launch.make_job(f"model.file={network}", "train.numerics=exact", "train.precision=float32")
    with pytest.raises(ConfigurationError, match="none today"):
        PlainService().check(job)


def test_a_service_without_pages_and_costs_says_so(tmp_path: Path) -> None:
    service, handle = PlainService(), Handle(tmp_path, "run", {CHECKPOINTS: "checkpoints/run"})
    assert handle.checkpoints == "checkpoints/run"
    assert service.page(handle) == ""
    assert list(service.costs(handle)) == []
    assert service.place() == {}
