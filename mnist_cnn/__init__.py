"""Train a Keras CNN on MNIST, locally or remotely.

Every backend runs the same job with the same code. From Python or a notebook:

    import mnist_cnn

    job = mnist_cnn.make_job("train.epochs=2", "data.train_limit=10000")
    run = mnist_cnn.submit(job)
    mnist_cnn.follow(run)
    print(run.wait().accuracy, mnist_cnn.predict_file(run, "digit.png").label)

Each name is imported when it is first used. So the package imports fast, and `__main__` can say which Python
is needed.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnist_cnn.version import OLDEST_PYTHON, PYTHON_NEEDED, __version__, installation_hint

if TYPE_CHECKING:
    from mnist_cnn.cli.display import follow
    from mnist_cnn.launch import attach, make_job, plan, predict_file, resume, submit
    from mnist_cnn.prediction.predictor import load_predictor

__all__ = [
    "__version__",
    "attach",
    "follow",
    "load_predictor",
    "make_job",
    "plan",
    "predict_file",
    "resume",
    "submit",
]

_MODULES = {"follow": "mnist_cnn.cli.display", "load_predictor": "mnist_cnn.prediction.predictor"}
"""The modules of names that `mnist_cnn.launch` lacks."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        if sys.version_info < OLDEST_PYTHON:
            raise ImportError(f"{PYTHON_NEEDED}; {installation_hint()}")
        return getattr(import_module(_MODULES.get(name, "mnist_cnn.launch")), name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return __all__
