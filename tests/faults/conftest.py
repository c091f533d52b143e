"""What all fault tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def _unmeasured(unmeasured: None) -> None:
    """Measure no coverage in processes that are killed, because they would leave no data."""
