"""`backend.sdk=v2` keeps both contracts, with the unmodified SDK on the loopback service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import V2_TESTS, chosen_v2, forget
from helpers.azure_faults import LoopbackFaults
from helpers.processes import SMALL, TINY

from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.testing import BackendContract, RemoteContract

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = V2_TESTS


class TestAzureBackend(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, azure_environment: AzureService) -> tuple[str, ...]:
        return chosen_v2(azure_environment)

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return (*TINY, "train.epochs=2")


class TestAzureService(RemoteContract):
    @pytest.fixture(scope="class")
    @classmethod
    def faults(cls, azure_environment: AzureService) -> LoopbackFaults:
        forget()
        return LoopbackFaults(azure_environment, Sdk.v2)

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, azure_environment: AzureService) -> tuple[str, ...]:
        # Only a node of low priority is preempted.
        return (*chosen_v2(azure_environment), "backend.cluster=lowcluster", "backend.priority=lowpriority")

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return SMALL
