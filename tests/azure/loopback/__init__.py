"""A loopback Azure ML: good enough for the unmodified SDK, in one process and on one machine.

By hand, `python -m tests.azure.loopback -- COMMAND...` (`__main__.py`). From a test:

    with AzureService(folder) as service:
        subprocess.run(command, cwd=service.home, env={**os.environ, **service.environment})
        service.check()

A request's way: `proxy.py` ends TLS for the real host names (`certificates.py`) and refuses every other
host; `server.py` lets a fault strike it (`faults.py`), finds its handler (`routes.py`), records it
(`recording.py`) and holds it against the published documents (`spec_check.py`). The handlers are
`identity.py`, `workspace.py`, `compute.py`, `snapshots.py`, `history.py`, `metrics.py`, `artifacts.py`,
`models.py` and `execution.py`; what they refuse is in `rules.py`, how in `refusals.py`. Blobs are Azurite's
(`azurite.py`, `blobs.py`). A submitted run goes its way in `job.py`: `nodes.py` has its environment,
`interpreter.py` its Python, `mounts.py` its data, `process.py` its process, which starts `node.py`.
"""

from .compute import Behaviour
from .faults import Fault
from .recording import Exchange
from .service import AzureService

__all__ = ["AzureService", "Behaviour", "Exchange", "Fault"]
