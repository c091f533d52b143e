"""How a cluster is created, compared and shown. The SDK's objects are stand-ins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import requests
from helpers.azure_runs import Clock
from helpers.sdk_fakes import config_of, provide

from mnist_cnn.backends.azure.v1 import cluster
from mnist_cnn.backends.remote.failures import NodesRefused
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = "STANDARD_D2_V2"
LOW = (
    "backend.priority=lowpriority",
    "backend.min_nodes=1",
    "backend.max_nodes=3",
    "backend.idle_seconds=90",
)


def a_cluster(**changes: Any) -> Any:
    scale = {"minimum_node_count": 0, "maximum_node_count": 1, "idle_seconds_before_scaledown": 120}
    scale |= {name: changes.pop(name) for name in scale if name in changes}
    status = SimpleNamespace(current_node_count=1, errors=None, serialize=lambda: {"currentNodeCount": 1})
    settings = {"vm_size": "STANDARD_D2DS_V4", "vm_priority": "Dedicated", "status": status}
    return SimpleNamespace(
        name="traincluster",
        type="AmlCompute",
        scale_settings=SimpleNamespace(**scale),
        **{"provisioning_state": "Succeeded", "provisioning_errors": None, **settings, **changes},
    )


@pytest.fixture
def create(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets what the SDK's creations and searches do, and lists what was done."""

    def with_outcomes(*outcomes: Exception | None, found: Any = None) -> list[tuple[str, Any]]:
        done: list[tuple[str, Any]] = []
        remaining = list(outcomes)

        def create_target(_workspace: object, name: str, provisioning: dict[str, Any]) -> str:
            done.append((name, provisioning))
            if remaining and (error := remaining.pop(0)) is not None:
                raise error
            return "the new cluster"

        def find(_workspace: object, name: str) -> Any:
            done.append((name, "searched"))
            return found

        provide(
            monkeypatch,
            "azureml.core.compute",
            AmlCompute=SimpleNamespace(provisioning_configuration=lambda **values: values),
            ComputeTarget=SimpleNamespace(create=create_target),
        )
        monkeypatch.setattr(cluster, "_send_creation_once", lambda: None)
        monkeypatch.setattr(cluster, "find", find)
        monkeypatch.setattr(cluster, "time", Clock())
        return done

    return with_outcomes


def test_a_cluster_is_created_as_it_is_configured(create: Callable[..., list[tuple[str, Any]]]) -> None:
    done = create()
    assert cluster.ensure(None, None, config_of(*LOW, f"backend.vm_size={SIZE}")) == "the new cluster"
    assert done == [
        (
            "traincluster",
            {
                "vm_size": SIZE,
                "vm_priority": "lowpriority",
                "min_nodes": 1,
                "max_nodes": 3,
                "idle_seconds_before_scaledown": 90,
            },
        )
    ]


def test_a_creation_without_an_answer_is_looked_for_before_it_is_repeated(
    create: Callable[..., list[tuple[str, Any]]],
) -> None:
    done = create(ConnectionError("lost"), found="it is there")
    assert cluster.ensure(None, None, config_of()) == "it is there"
    assert [what == "searched" for _, what in done] == [False, True]
    done = create(ConnectionError("lost"), None, found=None)
    assert cluster.ensure(None, None, config_of()) == "the new cluster"
    assert [what == "searched" for _, what in done] == [False, True, False]
    done = create(*[ConnectionError("lost")] * 3, found=None)
    with pytest.raises(ServiceError, match="cannot create the cluster traincluster"):
        cluster.ensure(None, None, config_of())
    assert len(done) == 6


@pytest.mark.parametrize(
    ("answer", "status"),
    [(requests.ConnectionError("lost"), None), (503, 503), (429, 429), (400, 0), (201, 0)],
    ids=str,
)
def test_the_sdk_cannot_repeat_the_request_that_creates_a_cluster(
    monkeypatch: pytest.MonkeyPatch, answer: Exception | int, status: int | None
) -> None:
    """The SDK retries what its session's `put` raises, if it knows the exception, and what it answers."""

    def put(_session: requests.Session, _url: str) -> requests.Response:
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code = answer
        return response

    compute = SimpleNamespace(get_requests_session=requests.Session)
    retried = SimpleNamespace(RETRYABLE_STATUS_CODES={429, 503})
    provide(monkeypatch, "azureml.core.compute", compute=compute)
    provide(monkeypatch, "azureml._restclient", clientbase=retried)
    monkeypatch.setattr(requests.Session, "put", put)
    cluster._send_creation_once()  # noqa: SLF001
    session = compute.get_requests_session()
    if status == 0:
        assert session.put("https://management.azure.com").status_code == answer
        return
    with pytest.raises(cluster._CreationError) as raised:  # noqa: SLF001
        session.put("https://management.azure.com")
    assert raised.value.status_code == status
    assert not isinstance(raised.value, OSError)  # which includes what `requests` raises and the SDK retries


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"vm_size": "Standard_D3_v2"}, "vm_size=STANDARD_D3_V2, not backend.vm_size=STANDARD_D2DS_V4"),
        ({"vm_priority": "LowPriority"}, "priority=lowpriority, not backend.priority=dedicated"),
        ({"minimum_node_count": 1}, "min_nodes=1, not backend.min_nodes=0"),
        ({"maximum_node_count": 4}, "max_nodes=4, not backend.max_nodes=1"),
        ({"idle_seconds_before_scaledown": 60}, "idle_seconds=60, not backend.idle_seconds=120"),
    ],
)
def test_each_difference_from_the_configuration_is_reported(changes: dict[str, Any], line: str) -> None:
    expected = [f"cluster traincluster has {line}; it is not changed"]
    assert list(cluster.differences(a_cluster(**changes), config_of())) == expected
    assert not list(cluster.differences(a_cluster(), config_of()))


def test_show_prints_the_status_as_the_sdk_serializes_it() -> None:
    assert 'cluster status: {"currentNodeCount": 1}' in list(cluster.show(a_cluster(), config_of()))
    failed = a_cluster(provisioning_state="Failed", status=None)
    assert not [line for line in cluster.show(failed, config_of()) if "status" in line]


def test_a_warning_of_the_service_is_shown_and_the_cluster_is_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Clusters that work were seen with an error of that code."""
    error = {"code": "ClusterHasWarnings", "message": "The specified VMSize is being deprecated."}
    status = SimpleNamespace(current_node_count=0, errors=[{"error": error}], serialize=dict)
    cluster.wait_until_ready(a_cluster(status=status), config_of())
    said = "the service says of cluster traincluster: ClusterHasWarnings The specified VMSize"
    assert said in capsys.readouterr().err
    assert any(said in line for line in cluster.show(a_cluster(status=status), config_of()))


@pytest.mark.parametrize(
    ("nodes", "kept", "said"),
    [
        (None, 0, ["traincluster has no nodes (nothing is billed)"]),
        (0, 1, ["traincluster always keeps 1 node, billed until you delete it (min_nodes=1)"]),
        (1, 1, ["traincluster has 1 node, which is billed", "always keeps 1 node"]),
        (2, 0, ["traincluster has 2 nodes, which are billed", "released after 120 seconds"]),
    ],
)
def test_costs_name_the_nodes_that_are_billed(nodes: int | None, kept: int, said: list[str]) -> None:
    """A new cluster has no node yet, and its counts may be null."""
    status = SimpleNamespace(current_node_count=nodes)
    lines = list(cluster.costs(a_cluster(status=status, minimum_node_count=kept), config_of()))
    found = [line for line in lines if not line.startswith("release them now")]
    assert len(found) == len(said)
    assert all(text in line for line, text in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("state", "size", "reason", "kind"),
    [
        ("Failed", "STANDARD_D2DS_V4", "not supported", NodesRefused),
        ("Failed", "STANDARD_D2DS_V4", "above the Quota", BackendError),
        ("Failed", "Standard_X99", "not supported", BackendError),
        ("Canceled", "STANDARD_D2DS_V4", "not supported", BackendError),
    ],
)
def test_a_failed_cluster_would_fail_again_only_with_the_same_size(
    state: str, size: str, reason: str, kind: type[BackendError]
) -> None:
    errors = [{"error": {"code": "InvalidPropertyValue", "message": f"This size is {reason}."}}]
    failed = a_cluster(provisioning_state=state, vm_size=size, provisioning_errors=errors)
    with pytest.raises(BackendError, match=f"This size is {reason}") as raised:
        cluster.wait_until_ready(failed, config_of())
    assert type(raised.value) is kind
    assert "cluster delete" in raised.value.hint


def test_a_creation_that_is_refused_at_once_would_be_refused_again(create: Callable[..., Any]) -> None:
    create(RuntimeError("Response Code: 400 Content: Specified VM size is not supported"))
    with pytest.raises(NodesRefused, match="HTTP 400"):
        cluster.ensure(None, None, config_of())


def test_a_creation_above_the_quota_may_succeed_later(create: Callable[..., Any]) -> None:
    create(RuntimeError("Response Code: 400 Content: {'code': 'ClusterCoreQuotaReached'}"))
    with pytest.raises(BackendError, match="HTTP 400") as raised:
        cluster.ensure(None, None, config_of())
    assert not isinstance(raised.value, NodesRefused)
    assert "ask for more cores" in raised.value.hint
