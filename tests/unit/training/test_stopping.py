"""When a training stops early, and which epoch it saves."""

from __future__ import annotations

import pytest

from mnist_cnn import launch
from mnist_cnn.config import Keep, TrainConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.result import EpochRow
from mnist_cnn.training import stopping

VALIDATION = "data.validation=100"


def rows(*losses: float) -> list[EpochRow]:
    return [EpochRow(epoch, 1.0, 0.5, loss, 0.5, 1.0, 2.0) for epoch, loss in enumerate(losses, 1)]


@pytest.mark.parametrize(
    ("losses", "patience", "epochs"),
    [
        ((0.5, 0.6), 1, 2),
        ((0.5, 0.5), 1, 2),  # an equal loss is no improvement
        ((0.5, 0.4, 0.3, 0.4), 1, 4),
        ((0.5, 0.6, 0.4, 0.6, 0.7, 0.5, 0.3), 3, 6),
        ((0.5, 0.6, 0.4, 0.6, 0.7, 0.3), 3, None),
        ((0.5, 0.6, 0.7, 0.8), None, None),
    ],
)
def test_a_training_stops_after_some_epochs_without_a_lower_loss(
    losses: tuple[float, ...], patience: int | None, epochs: int | None
) -> None:
    config = TrainConfig(stop_patience=patience)
    is_done = [stopping.is_done(rows(*losses[:count]), config) for count in range(len(losses) + 1)]
    assert (is_done.index(True) if True in is_done else None) == epochs


def test_a_training_ends_after_its_epochs_whatever_its_patience() -> None:
    config = TrainConfig(epochs=2, stop_patience=9)
    assert [stopping.is_done(rows(*[0.5] * epochs), config) for epochs in (0, 1, 2)] == [False, False, True]


def test_the_saved_epoch_is_the_last_or_the_earliest_of_the_best() -> None:
    history = rows(0.5, 0.3, 0.3, 0.4)
    assert stopping.saved_epoch(history, Keep.last) == 4
    assert stopping.saved_epoch(history, Keep.best) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.stop_patience=3",), "train.stop_patience=3 needs validation images"),
        (("train.keep=best",), "train.keep=best needs validation images"),
        (
            ("train.stop_patience=3", VALIDATION, "train.schedule=one_cycle"),
            "train.stop_patience=3 may leave out the last epochs, in which train.schedule=one_cycle lowers",
        ),
        (
            ("train.stop_patience=3", VALIDATION, "train.rotation=5", "train.unaugmented_epochs=2"),
            "train.stop_patience=3 may leave out the last epochs, in which train.unaugmented_epochs=2",
        ),
        (("train.stop_patience=0", VALIDATION), "train.stop_patience=0: must be a whole number from 1"),
        (("train.keep=first", VALIDATION), "train.keep=first: must be one of last, best"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        launch.make_job(*overrides)
    assert refused.value.message.startswith(message)


def test_both_settings_are_part_of_the_job() -> None:
    plain = launch.make_job(VALIDATION)
    for setting in ("train.stop_patience=3", "train.keep=best"):
        changed = launch.make_job(VALIDATION, setting)
        assert changed.digest != plain.digest
        assert plain.changes_to(changed)[0].startswith(f"{setting} (was ")


def test_the_plan_names_both_settings() -> None:
    plan = dict(launch.plan(VALIDATION, "train.stop_patience=1", "train.keep=best").lines)
    assert "stop after 1 epoch without a lower validation loss, save the best epoch" in plan["train"]
