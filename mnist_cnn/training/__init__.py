"""From a job to its result: network, compiled epoch, checkpoints, plots."""
