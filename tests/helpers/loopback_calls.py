"""Single requests to a loopback Azure ML, as a client would send them."""

from __future__ import annotations

import http.client
import json
import ssl
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loopback.messages import Request

if TYPE_CHECKING:
    from loopback import AzureService
    from loopback.handlers import Handlers

API = "https://westeurope.api.azureml.ms"
MANAGEMENT = "https://management.azure.com"
COMPUTE = f"{MANAGEMENT}/<WS>/computes/{{}}?api-version=2020-02-02"
EXPERIMENT = f"{API}/history/v1.0/<WS>/experiments/toy"
SUBMIT = f"{API}/execution/v1.0/<WS>/experiments/toy/snapshotrun?runId={{}}"
SNAPSHOTS = f"{API}/content/v2.0/<WS>/snapshots"


def request(handlers: Handlers, method: str, url: str, body: Any = None, **headers: str) -> Request:
    """Return a request with a valid token; `<WS>` in the URL is the workspace, a body is text or JSON."""
    host, _, path = url.removeprefix("https://").partition("/")
    target = "/" + path.replace("<WS>", handlers.tenancy.workspace_path.lstrip("/"))
    content = b"" if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
    return Request(
        method, host, target, {"Authorization": f"Bearer {handlers.identity.token()}", **headers}, content
    )


def call(service: AzureService, method: str, url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Send a request through the service's proxy; return the status and the JSON answer."""
    sent = request(service.handlers, method, url, body, **headers)
    proxy = urlsplit(service.proxy.url)
    context = ssl.create_default_context(cafile=str(service.certificate))
    connection = http.client.HTTPSConnection(proxy.hostname or "", proxy.port, timeout=60, context=context)
    connection.set_tunnel(sent.host, 443)
    try:
        connection.request(method, sent.target, sent.body or None, dict(sent.headers))
        reply = connection.getresponse()
        text = reply.read()
        return reply.status, json.loads(text) if text else None
    finally:
        connection.close()


def tree(**hashes: str) -> dict[str, Any]:
    """Return the tree of a snapshot whose files have these hashes."""
    files = {
        f"{name}.py": {"name": f"{name}.py", "type": "File", "hash": digest, "timestamp": "", "children": {}}
        for name, digest in hashes.items()
    }
    return {"name": "", "type": "Directory", "hash": "root", "timestamp": "", "children": files}


def submit(service: AzureService, script: str, run_id: str, *arguments: str, **settings: Any) -> None:
    """Submit a script as the SDK does; `data` is the datastore's path to mount as first argument."""
    data = settings.pop("data", None)
    snapshot = str(uuid.uuid4())
    service.blobs.put("snapshots", f"{snapshot}/train.py", script.encode())
    url = service.blobs.signed_url("snapshots", f"{snapshot}/train.py")
    nodes = [{"FullName": "train.py", "BlobUri": url, "FileSize": len(script)}]
    body = {
        "ParentSnapshotId": None,
        "DirTreeNode": tree(train="1"),
        "FileRevisionList": {"FileNodes": nodes},
    }
    assert call(service, "POST", f"{SNAPSHOTS}/{snapshot}", body)[0] == 200
    reference = {"dataStoreName": service.tenancy.datastore, "mode": "mount", "pathOnDataStore": data}
    configuration = {
        "script": "train.py",
        "target": "small",
        "arguments": [*(["$AZUREML_DATAREFERENCE_data"] if data else []), *arguments],
        "dataReferences": {"data": reference} if data else {},
        "environment": {"python": {"userManagedDependencies": True}},
        **settings,
    }
    definition = {"Configuration": configuration, "SnapshotId": snapshot}
    assert call(service, "POST", SUBMIT.format(run_id), definition) == (200, {"runId": run_id})
