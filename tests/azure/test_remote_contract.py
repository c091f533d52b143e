"""`backend=azure` keeps the contract of remote services, with the unmodified SDK on the loopback service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import SDK_TESTS, chosen, forget
from helpers.azure_faults import LoopbackFaults
from helpers.processes import SMALL

from mnist_cnn.testing import RemoteContract

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = [*SDK_TESTS, pytest.mark.long]


class TestAzureService(RemoteContract):
    @pytest.fixture(scope="class")
    @classmethod
    def faults(cls, azure_environment: AzureService) -> LoopbackFaults:
        forget()
        return LoopbackFaults(azure_environment)

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, azure_environment: AzureService) -> tuple[str, ...]:
        # Only a node of low priority is preempted.
        return (*chosen(azure_environment), "backend.cluster=lowcluster", "backend.priority=lowpriority")

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return SMALL
