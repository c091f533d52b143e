"""What the node's interpreter starts: SCRIPT and its arguments, inside azureml's history context.

That context sends the metrics that are still waiting and uploads ./outputs and ./logs, as on Azure.
Started with `python -P`; stands alone, and imports nothing of this package.
"""

from __future__ import annotations

import json
import os
import runpy
import sys


def main(script: str, arguments: list[str]) -> None:
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))  # noqa: PTH100, PTH120 - as runpy wants it
    sys.argv = [script, *arguments]
    from azureml.history._tracking import get_history_context_manager

    watched = json.loads(os.environ.pop("AZURE_SERVICE_WATCHED", "[]"))
    with get_history_context_manager(DirectoriesToWatch=watched):
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
