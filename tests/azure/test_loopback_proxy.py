"""The loopback service over the network: other hosts, faults on a connection, the command line."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from helpers.loopback_calls import API, EXPERIMENT, call
from loopback import Fault

if TYPE_CHECKING:
    from loopback import AzureService


@pytest.fixture
def experiment() -> str:
    """The URL of an experiment that no other test uses."""
    return EXPERIMENT.replace("toy", uuid.uuid4().hex)


def test_no_other_host_is_reached(azure: AzureService) -> None:
    with pytest.raises(OSError, match="403"):
        call(azure, "GET", "https://example.com/")
    plain = http.client.HTTPConnection("127.0.0.1", urlsplit(azure.proxy.url).port, timeout=60)
    plain.request("GET", "http://example.com/page")
    assert plain.getresponse().status == 403
    plain.close()
    assert set(azure.requests.refused_hosts) == {"example.com", "http://example.com/page"}
    assert "refused host: example.com" in azure.requests.table()


def test_a_dropped_request_is_not_done_but_one_with_a_lost_answer_is(
    azure: AzureService, experiment: str
) -> None:
    azure.faults.add(Fault("POST", kind="drop"), Fault("POST", occurrence=2, kind="lose-answer"))
    for is_done in (False, True):
        with pytest.raises((OSError, http.client.HTTPException)):
            call(azure, "POST", experiment)
        assert (call(azure, "GET", experiment)[0] == 200) is is_done
    assert [exchange.status for exchange in azure.requests.exchanges()] == [0, 404, 0, 200]


def test_an_answer_can_come_late_or_truncated(azure: AzureService, experiment: str) -> None:
    azure.faults.add(Fault("POST", kind="delay", seconds=0.5), Fault("GET", kind="truncate"))
    started = time.monotonic()
    assert call(azure, "POST", experiment)[0] == 200
    assert time.monotonic() - started >= 0.5
    with pytest.raises(http.client.IncompleteRead):
        call(azure, "GET", experiment)


CLIENT = f"""
import http.client, json, os, ssl, sys, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
def get(path):
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    connection = http.client.HTTPSConnection(proxy.hostname, proxy.port, context=context)
    connection.set_tunnel({urlsplit(API).hostname!r}, 443)
    connection.request("GET", path)
    return connection.getresponse().status
"""


def run(record: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as the command of `python -m tests.azure.loopback`."""
    return subprocess.run(
        [sys.executable, "-m", "loopback", "--", sys.executable, "-c", CLIENT + code],
        cwd=Path(__file__).parent,
        env={**os.environ, "AZURE_SERVICE_REQUESTS": str(record), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_line_passes_the_exit_code_on_and_prints_the_calls(tmp_path: Path) -> None:
    workspace = "json.load(open('config.json'))['workspace_name']"
    code = f"assert {workspace} == 'loopback-workspace'; assert get('/discovery') == 200; sys.exit(3)"
    ended = run(tmp_path / "record.jsonl", code)
    assert ended.returncode == 3, ended.stderr
    assert "GET /discovery" in ended.stderr
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    assert all(line["status"] == 200 and line["bytes_down"] > 0 for line in lines)


def test_the_command_line_injects_faults_and_ends_with_70(tmp_path: Path) -> None:
    code = "assert [get(path) for path in ('/discovery', '/discovery', '/nothing')] == [418, 200, 501]"
    faults = json.dumps([{"path": "discovery", "status": 418}])
    environment = {"AZURE_SERVICE_FAULTS": faults, "AZURE_SERVICE_CLUSTERS": '{"full": true}'}
    ended = run(tmp_path / "record.jsonl", code, **environment)
    assert ended.returncode == 70, ended.stderr
    assert "not implemented: GET westeurope.api.azureml.ms/nothing" in ended.stderr
