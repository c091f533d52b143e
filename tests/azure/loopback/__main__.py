"""Run a command against a loopback Azure ML: python -m tests.azure.loopback [--] COMMAND...

AZURE_SERVICE_FAULTS: a JSON list of faults to inject.
AZURE_SERVICE_CLUSTERS: a JSON object that sets how clusters behave.
AZURE_SERVICE_REQUESTS: the file that gets the record of all requests, as JSON lines.
The exit code is the command's, or 70 if the service's own check fails (a request that isn't implemented).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from . import AzureService, Behaviour
from .faults import read_faults

CHECK_FAILED = 70


def main(arguments: list[str]) -> int:
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command:
        sys.stderr.write(str(__doc__))
        return 2
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # runs the clean-up
    faults = read_faults(os.environ.get("AZURE_SERVICE_FAULTS", "[]"))
    behaviour = Behaviour(**json.loads(os.environ.get("AZURE_SERVICE_CLUSTERS", "{}")))
    record = os.environ.get("AZURE_SERVICE_REQUESTS")
    with (
        tempfile.TemporaryDirectory(prefix="azure-service-") as folder,
        AzureService(Path(folder)) as service,
    ):
        service.faults.add(*faults)
        service.clusters.behaviour = behaviour
        environment = {**os.environ, **service.environment}
        code = subprocess.run(command, cwd=service.home, env=environment, check=False).returncode
        sys.stderr.write(f"\n{service.requests.table()}\n")
        if record:
            shutil.copy(service.requests.path, record)
        try:
            service.check()
        except AssertionError as error:
            sys.stderr.write(f"{error}\n")
            return CHECK_FAILED
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
