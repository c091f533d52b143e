"""Checks a custom network before a cluster is paid for.

Run as `python -m mnist_cnn.training.network_check < job.json`. Another process builds the network,
because its file may contain any code, and TensorFlow starts slowly. The last line that it prints is the error
as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mnist_cnn
from mnist_cnn.config import Format, Numerics
from mnist_cnn.data import datasets
from mnist_cnn.errors import ConfigurationError, MnistCnnError
from mnist_cnn.job import Job
from mnist_cnn.training.tensorflow_import import import_tensorflow

SECONDS = 300.0
"""Time limit for building a network.

Most take as long as TensorFlow's import.
"""


def check(job: Job) -> None:
    """Check a job's custom network, if it has one, by building it in another process.

    Raises ConfigurationError if it cannot be built, returns no probabilities, or cannot be exact for an exact
    job.
    """
    if job.model.source is None:
        return
    root = str(Path(mnist_cnn.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "mnist_cnn.training.network_check"],
            env={**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": path},
            input=job.to_json(),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        message = f"model.file={job.model.file}: its network was not built in {SECONDS:.0f} seconds"
        raise ConfigurationError(message, "check that its build() ends") from error
    if ended.returncode == ConfigurationError.exit_code:
        message, hint = json.loads(ended.stdout.splitlines()[-1])
        raise ConfigurationError(message, hint)
    if ended.returncode:
        why = (ended.stderr.splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise ConfigurationError(f"model.file={job.model.file}: building its network failed: {why}")


def main() -> int:
    """Build the network of the job on standard input; return the exit code."""
    import_tensorflow()
    from mnist_cnn.training.exact.layers import with_exact_layers
    from mnist_cnn.training.exact.products import Arithmetic
    from mnist_cnn.training.model import build_model

    try:
        job = Job.from_json(sys.stdin.read())
        data, train = job.data, job.train
        info = datasets.inspect(data)
        assert info is not None  # noqa: S101 - it is None only without a download
        size = (info.height, info.width)
        shape = (*size, 1) if data.format is Format.channels_last else (1, *size)
        model = build_model(job.model, shape, data.classes, data.format, "float32")
        if train.numerics is Numerics.exact:
            arithmetic = Arithmetic.choose(train.exact_bits, train.precision.for_exact, train.batch_size)
            with_exact_layers(model, arithmetic)
    except MnistCnnError as error:
        print(json.dumps([error.message, error.hint]))  # noqa: T201 - the process that started this one reads it
        return ConfigurationError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
