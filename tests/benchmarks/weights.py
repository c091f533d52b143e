"""The weights that jobs end in: prints their hashes, and the kernels that computed them, as JSON.

    python tests/benchmarks/weights.py [--without-grappler] JOB...

A JOB is one argument: settings with spaces between them. Only its epochs are run: nothing is saved.
"""

from __future__ import annotations

import json
import sys

import mnist_cnn
from mnist_cnn import cpu
from mnist_cnn.data import datasets


def weights_after(settings: str) -> str:
    """Return the `weights_sha256` that result.json would have after a job with these settings."""
    from mnist_cnn.training.epoch import Trainer
    from mnist_cnn.training.model import weights_sha256

    job = mnist_cnn.make_job(*settings.split())
    trainer = Trainer(job, datasets.load(job.data))
    for epoch in range(1, job.train.epochs + 1):
        trainer.run_epoch(epoch, lambda progress: None)
    return weights_sha256(trainer.float32_model())


def kernels() -> str:
    """Return the numbers that exact products of bfloat16 results are computed with on this processor."""
    return "bfloat16" if cpu.has_bfloat16_kernels() else "float32"


def main(arguments: list[str]) -> None:
    import tensorflow as tf

    if "--without-grappler" in arguments:
        arguments.remove("--without-grappler")
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    hashes = {settings: weights_after(settings) for settings in arguments}
    print(json.dumps({"kernels": kernels(), "weights": hashes}))


if __name__ == "__main__":
    main(sys.argv[1:])
