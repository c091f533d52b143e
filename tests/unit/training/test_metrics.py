"""More metrics of an epoch: their names, and what Keras computes."""

from __future__ import annotations

import numpy as np
import pytest

from mnist_cnn import launch
from mnist_cnn.data import datasets
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training import metrics
from mnist_cnn.training.epoch import Trainer

TINY = ("data.train_limit=64", "data.test_limit=50", "data.validation=14", "model.filters=[2]")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("f1-score", "did you mean f1_score?"),
        ("recal", "did you mean recall?"),
        ("speed", "the metrics are auc, categorical_hinge"),
    ],
)
def test_an_unknown_metric_is_refused_with_the_nearest_name(name: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        launch.plan(f"train.metrics=[precision,{name}]")
    assert refused.value.message == f"train.metrics: unknown metric {name}"
    assert refused.value.hint.startswith(hint)


def test_metrics_do_not_change_the_job() -> None:
    measured = launch.make_job("train.metrics=[precision,auc]")
    assert measured.train.metrics == ("precision", "auc")
    assert measured.digest == launch.make_job().digest
    assert launch.make_job().changes_to(measured) == ()


@pytest.mark.usefixtures("keras")
def test_keras_measures_a_worked_example() -> None:
    labels = np.array([0, 0, 1, 2], np.uint8)
    probabilities = np.array([[0.6, 0.2, 0.2], [0.2, 0.7, 0.1], [0.1, 0.9, 0], [0.4, 0.3, 0.3]], np.float32)
    found = metrics.measure(tuple(metrics.METRICS), labels, probabilities)
    assert set(found) == set(metrics.METRICS)
    assert found["precision"] == pytest.approx(2 / 3)  # of three that are above 0.5
    assert found["recall"] == pytest.approx(2 / 4)
    assert found["f1_score"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert found["top_k_categorical_accuracy"] == 1
    squares = 0.16 + 0.04 + 0.04 + 0.64 + 0.49 + 0.01 + 0.01 + 0.01 + 0.16 + 0.09 + 0.49
    assert found["mean_squared_error"] == pytest.approx(squares / 12)


@pytest.mark.usefixtures("keras")
def test_each_row_has_the_metrics_of_the_held_out_images() -> None:
    job = launch.make_job(*TINY, "train.metrics=[mean_squared_error]")
    arrays = datasets.load(job.data)
    trainer = Trainer(job, arrays)
    row = trainer.run_epoch(1, lambda progress: None)
    _, _, probabilities = trainer.evaluate()
    expected = ((np.eye(10)[arrays.y_validation] - probabilities) ** 2).mean()
    assert row.metrics == {"mean_squared_error": pytest.approx(expected, rel=1e-5)}
