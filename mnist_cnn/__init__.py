"""Train a Keras CNN on MNIST here or on a cluster: the same job, the same code, the same weights.

From Python or a notebook:

    import mnist_cnn

    job = mnist_cnn.make_job("train.epochs=2", "data.train_limit=10000")
    run = mnist_cnn.submit(job)
    mnist_cnn.follow(run)
    print(run.wait().accuracy)

What is named here is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnist_cnn.version import __version__

if TYPE_CHECKING:
    from mnist_cnn.cli.display import follow
    from mnist_cnn.launch import attach, make_job, plan, submit
    from mnist_cnn.prediction.predictor import load_predictor

__all__ = ["__version__", "attach", "follow", "load_predictor", "make_job", "plan", "submit"]

_HOME_OF = {
    "attach": "mnist_cnn.launch",
    "follow": "mnist_cnn.cli.display",
    "load_predictor": "mnist_cnn.prediction.predictor",
    "make_job": "mnist_cnn.launch",
    "plan": "mnist_cnn.launch",
    "submit": "mnist_cnn.launch",
}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
