"""A search whose trials train on Azure, several at once; killed, interrupted and continued."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.azure_commands import BOTH_SDKS, LOOPBACK_TESTS, chosen, run_here, submissions, succeeded
from helpers.processes import end_of, start_command, wait_until
from helpers.searches import SEARCH, epochs_in_log, outcome, trained_state

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = [*LOOPBACK_TESTS, pytest.mark.long]


@BOTH_SDKS
def test_a_search_that_is_killed_and_interrupted_ends_as_it_does_here(
    azure: AzureService, local_search: tuple[Path, dict[str, Any]], tmp_path: Path, sdk: str
) -> None:
    cluster = azure.clusters.add(f"search-{sdk[-2:]}")
    words = (*SEARCH, *chosen(azure), sdk, f"backend.cluster={cluster.name}", "--json")
    killed = start_command(*words, cwd=tmp_path)
    wait_until(lambda: len(cluster.busy) == 3, killed)
    killed.kill()
    killed.communicate()
    interrupted = start_command(*words, cwd=tmp_path)
    wait_until(lambda: submissions(azure) == 4 and cluster.busy, interrupted)
    interrupted.send_signal(signal.SIGINT)
    ended = end_of(interrupted)
    assert ended.code == 130
    assert "the next command follows them: found/00" in ended.err
    assert "continue it: python -m mnist_cnn search" in ended.err
    answer = succeeded(run_here(*words, cwd=tmp_path)).json()
    assert submissions(azure) == answer["epochs"] == 4  # trials are compared after each epoch
    local, expected = local_search
    assert outcome(answer) == outcome(expected)
    for trial in answer["trials"]:
        name = f"{trial['trial']:03}"
        assert trained_state(tmp_path / "found" / name) == trained_state(local / name)
        logged = epochs_in_log(tmp_path / "found" / name)
        assert logged == [f"{epoch}/2" for epoch in range(1, trial["epochs"] + 1)]
    assert Path(tmp_path / answer["plot"]).read_bytes().startswith(b"\x89PNG")
