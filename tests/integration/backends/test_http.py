"""The remote backend of docs/extending.md keeps both contracts, on a small job service with real jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.docs import file_in_docs
from helpers.job_service import JobService
from helpers.processes import SMALL

from mnist_cnn.testing import BackendContract, RemoteContract

pytestmark = pytest.mark.usefixtures("unmeasured")


class TestHttpBackend(BackendContract, RemoteContract):
    @pytest.fixture(scope="class")
    @classmethod
    def faults(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobService]:
        with JobService(tmp_path_factory.mktemp("service")) as service:
            yield service

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, home: Path, faults: JobService) -> tuple[str, ...]:
        file = home / "http_backend.py"
        file.write_text(file_in_docs(file.name))
        return (f"backend={file}:HttpBackend", f"backend.url={faults.url}")

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return SMALL
