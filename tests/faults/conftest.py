"""What all fault tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _unmeasured(unmeasured: None) -> None:
    """Measure no coverage in the processes of these tests: those that are killed leave no data anyway."""
