"""Whatever happens to one of several workers, the run ends at once and can be resumed to the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.workers import Fault, Kind, endure, undisturbed

if TYPE_CHECKING:
    from pathlib import Path

FAULTS = (
    Fault(Kind.kill, 1, "meeting"),  # before TensorFlow is imported, which takes most of the time
    Fault(Kind.interrupt, 2, "meeting"),
    Fault(Kind.stop, 2, "gradients"),
    Fault(Kind.kill, 0, "saving"),
)
"""In the order of the phases. `python -m tests.faults workers` tries each kind in each phase."""


@pytest.mark.long
def test_three_disturbed_workers_end_in_the_weights_of_one(tmp_path: Path) -> None:
    """And the last of them leave the rest to two workers."""
    home = tmp_path / "runs"
    home.mkdir()
    expected = undisturbed(home)

    assert endure(home, 3, FAULTS, 2, expected) == []
