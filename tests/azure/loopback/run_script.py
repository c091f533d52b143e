"""Runs SCRIPT with its arguments on the node, inside azureml's history context.

As on Azure, that context sends outstanding metrics and uploads ./outputs and ./logs.
Run it with `python -P`. It imports nothing from this package.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path


def main(script: str, arguments: list[str]) -> None:
    sys.path.insert(0, str(Path(script).resolve().parent))
    sys.argv = [script, *arguments]
    from azureml.history._tracking import get_history_context_manager

    watched = json.loads(os.environ.pop("AZURE_SERVICE_WATCHED", "[]"))
    with get_history_context_manager(DirectoriesToWatch=watched):
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
