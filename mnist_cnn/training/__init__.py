"""Trains a job: network, epochs, checkpoints, plots, result."""
