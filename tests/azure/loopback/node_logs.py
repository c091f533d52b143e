"""The names of the logs that a job leaves, which differ between Azure's two runtimes.

The names were seen in printed details of runs (azure-ml-recorded.json, `v1_printed.logs`).
"""

from __future__ import annotations

import dataclasses
import secrets

FOLDERS = ("user_logs/", "system_logs/", "azureml-logs/", "logs/")
IMAGE_LOG = "azureml-logs/20_image_build_log.txt"


@dataclasses.dataclass(frozen=True)
class NodeLogs:
    """The log of each process, and the logs that the service writes before and after it, with a line each."""

    scripts: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]


def common_runtime(processes: int = 1) -> NodeLogs:
    """Return the names of the runtime that runs jobs since 2022."""
    several = tuple(f"user_logs/std_log_process_{rank:02}.txt" for rank in range(processes))
    return NodeLogs(
        several if processes > 1 else ("user_logs/std_log.txt",),
        ("azureml-logs/lifecycler/lifecycler.log",),
        (),
    )


def old_runtime(processes: int = 1, *, is_low_priority: bool) -> NodeLogs:
    """Return the names of the runtime before that; most have the node's name."""
    node = f"tvmps_{secrets.token_hex(32)}_{'p' if is_low_priority else 'd'}"
    several = tuple(f"azureml-logs/70_driver_log_{rank}.txt" for rank in range(processes))
    return NodeLogs(
        several if processes > 1 else ("azureml-logs/70_driver_log.txt",),
        (
            f"azureml-logs/55_azureml-execution-{node}.txt",
            f"azureml-logs/65_job_prep-{node}.txt",
            "azureml-logs/process_info.json",
            "azureml-logs/process_status.json",
            "logs/azureml/job_prep_azureml.log",
        ),
        (f"azureml-logs/75_job_post-{node}.txt", "logs/azureml/job_release_azureml.log"),
    )
