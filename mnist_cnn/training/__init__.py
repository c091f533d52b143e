"""From a job to its result."""
