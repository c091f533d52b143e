"""A loopback Azure ML service: one process on one machine that answers the unmodified SDK.

On the command line: `python -m tests.azure.loopback -- COMMAND...` (`__main__.py`). In a test:

    with AzureService(folder) as service:
        subprocess.run(command, cwd=service.home, env={**os.environ, **service.environment})
        service.check()

How a request is answered: `proxy.py` ends TLS for the real host names and refuses every other host.
`server.py` injects faults (`faults.py`), finds the handler (`routes.py`), records the exchange
(`recording.py`) and compares it with the published documents (`spec_check.py`) and with what the real
service was seen to answer (`recorded_check.py`, `recorded_shapes.py`). The handlers, collected in
`handlers.py`, are `identity.py`, `workspace.py`, `compute.py`, `snapshots.py`, `history.py`, `metrics.py`,
`artifacts.py`, `models.py` and `execution.py`. `rules.py` has what they refuse, `refusals.py` the shape of
an error. Azurite stores the blobs (`azurite.py`, `blobs.py`).

What only `azure-ai-ml` (SDK v2) asks for is in `v2_handlers.py` and the modules that it collects; clusters,
runs, metrics, artifacts and models are the same objects, whichever SDK asks. `v2_arm.py` has what Resource
Manager's answers share, and `v2_blob_access.py` lets login tokens into the blob store. `v2_playback.py` plays
recorded sequences of real calls instead of this service's own answers.

How a run is executed: `job.py` takes it through its states, `definitions.py` shows its definition,
`node_logs.py` names its logs, `run_errors.py` says why it failed. `node.py` makes its environment variables,
`interpreter.py` the node's Python, `mounts.py` the data folders; `process.py` runs `run_script.py` for a run
of SDK v1, and the command of a job of SDK v2 (`v2_node.py`).
"""

from .compute import Behaviour
from .faults import Fault
from .recording import Exchange
from .service import AzureService

__all__ = ["AzureService", "Behaviour", "Exchange", "Fault"]
