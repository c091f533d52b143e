"""Calls to the service: their errors, secrets and time-outs; and steps that run in parallel."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from helpers.sdk_fakes import provide

from mnist_cnn.backends.azure import calls, checks, login
from mnist_cnn.backends.remote.calls import report
from mnist_cnn.backends.remote.failures import SubmissionUnknown
from mnist_cnn.backends.remote.parallel import run_parallel
from mnist_cnn.backends.remote.service import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 20.0
WRONG_SUBSCRIPTION = (
    "You are currently logged-in to T tenant. You don't have access to S-1 subscription, please check if it "
    "is in this tenant. All the subscriptions that you have access to in this tenant are = \n "
    "[SubscriptionInfo(subscription_name='other', subscription_id='O')]. \n Please refer to aka.ms/x"
)
SUBSCRIPTION_NAME = (
    "It looks like you have specified subscription name, S-1, instead of subscription id. Subscription names "
    "may not be unique, please specify subscription id from this list \n [SubscriptionInfo(...)]"
)
"""The SDK's exceptions for a wrong subscription_id in config.json."""


def test_no_secret_is_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_SERVICE_PRINCIPAL_PASSWORD", "geheimer geht nicht")
    text = "GET https://a/b?sv=1&sig=abc%2F&x=1 Authorization: Bearer eyJ.x.y client_secret=q "
    text += "{'accountKey': 'k+y', \"access_token\": \"tok.en\"} geheimer geht nicht"
    error = calls.translate("do it", RuntimeError(text))
    assert isinstance(error, ServiceError)
    for text in (error.message, error.hint, error.detail):
        assert not [
            secret for secret in ("abc%2F", "eyJ", "geheimer", "=q ", "k+y", "tok.en") if secret in text
        ]


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("Received bad response:\nResponse Code: 403\nContent: b''", 403, "AzureML Compute Operator"),
        ("AADSTS7000222: The provided client secret keys are expired", 401, "expired"),
        (
            "AADSTS7000215: Invalid client secret",
            401,
            "AZUREML_SERVICE_PRINCIPAL_PASSWORD or AZURE_CLIENT_SECRET",
        ),
        ("AADSTS700016: Application not found", 401, "AZUREML_SERVICE_PRINCIPAL_ID or AZURE_CLIENT_ID"),
        ("AADSTS90002: Tenant not found", 401, "AZUREML_SERVICE_PRINCIPAL_TENANT_ID or AZURE_TENANT_ID"),
        ("Response Code: 409 ... exceeds the quota of 0 cores", 409, "cores"),
        (WRONG_SUBSCRIPTION, 401, "config.json"),
        (SUBSCRIPTION_NAME, 401, "config.json"),
        ("something else", None, "studio"),
    ],
)
def test_an_error_of_the_sdk_becomes_a_message_and_a_hint(text: str, status: int | None, said: str) -> None:
    error = calls.translate("find the cluster", RuntimeError(text))
    assert isinstance(error, ServiceError)
    assert error.status == status
    assert said in error.hint
    assert "\n" not in error.message + error.hint


class LoginError(Exception):
    """The error of a login, with the status of an answer if there was one."""

    def __init__(self, text: str, status_code: int | None = None) -> None:
        super().__init__(text)
        self.status_code = status_code


class ClientAuthenticationError(LoginError):
    """Named as azure-core's."""


class AuthenticationException(LoginError):  # noqa: N818 - so it is called
    """Named as SDK v1's."""


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ClientAuthenticationError("Failed to invoke the Azure CLI"), None, "the login failed (Failed to"),
        (ClientAuthenticationError("Authentication failed: HTTP Error: 503"), None, "the login failed"),
        (AuthenticationException("Unexpected response", 503), 503, "the login failed"),
        (ClientAuthenticationError("Please run 'az login' to set up an account"), 401, "was refused"),
        (ClientAuthenticationError("the token has expired", 401), 401, "the login was refused"),
        (AuthenticationException("AADSTS7000215: Invalid client secret"), 401, "refused (AADSTS7000215)"),
    ],
)
def test_only_a_refused_login_ends_a_follow(error: Exception, status: int | None, said: str) -> None:
    """A slow Azure CLI, or an outage while a token is renewed, is over soon."""
    translated = calls.translate("find it", error)
    assert isinstance(translated, ServiceError)
    assert translated.status == status
    assert translated.is_transient == (status != 401)
    assert said in translated.message
    assert ("try again" in translated.hint) == translated.is_transient


@pytest.mark.parametrize(
    ("what", "role"),
    [
        ("create the cluster c", "AzureML Compute Operator"),
        ("submit the run", "AzureML Data Scientist"),
        ("find the default datastore", "AzureML Data Scientist"),
        ("list the run's files", "AzureML Data Scientist"),
        ("list mnist/ on the datastore", "Storage Blob Data Contributor"),
        ("send mnist/t10k-labels-idx1-ubyte.gz", "Storage Blob Data Contributor"),
        ("download result.json", "Storage Blob Data Contributor"),
        ("read the node's log", "Storage Blob Data Contributor"),
    ],
)
def test_a_forbidden_step_names_the_role_that_it_needs(what: str, role: str) -> None:
    error = calls.translate(what, RuntimeError("Response Code: 403"))
    assert f"the role {role}" in error.hint
    assert ("firewall" in error.hint) == (role == "Storage Blob Data Contributor")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("403 KeyBasedAuthenticationNotPermitted: Key based authentication is not permitted", "sdk=v2"),
        ("Access to workspace was denied based on workspace private link configuration.", "private network"),
        ("ImageBuildComputeNotValid: Set the imageBuildCompute property", "image build compute"),
    ],
)
def test_what_a_closed_workspace_says_has_a_hint(text: str, said: str) -> None:
    assert said in calls.translate("send mnist/x", RuntimeError(text)).hint


def test_an_answer_that_the_sdk_has_parsed_is_said_once() -> None:
    """SDK v2 repeats the message of such an answer, with its code."""
    text = "(UserError) Job x not found.\nCode: UserError\nMessage: Job x not found."
    answer = RuntimeError(text)
    vars(answer).update(message=text, status_code=404, error=SimpleNamespace(message="Job x not found."))
    assert calls.translate("find it", answer).message == "cannot find it: HTTP 404, Job x not found."


def test_a_wrong_subscription_is_named_without_the_other_ones() -> None:
    for text in (WRONG_SUBSCRIPTION, SUBSCRIPTION_NAME):
        error = calls.translate("open the workspace w", RuntimeError(text))
        expected = "cannot open the workspace w: this login has no access to a subscription S-1"
        assert error.message == expected


@pytest.mark.parametrize(
    ("status", "is_transient"),
    [
        *dict.fromkeys((400, 401, 403, 404, 409), False).items(),
        *dict.fromkeys((None, 408, 429, 500, 502, 503, 504), True).items(),
    ],
)
def test_a_retry_is_for_a_busy_service_and_never_for_a_refusal(
    status: int | None, *, is_transient: bool
) -> None:
    assert ServiceError("it failed", status=status).is_transient is is_transient
    assert SubmissionUnknown("it failed", status=status).is_transient is is_transient
    assert not SubmissionUnknown("it failed", status=status, is_abandoned=True).is_transient


def test_a_token_of_the_azure_cli_is_used_until_shortly_before_it_expires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library that asks the Azure CLI is a stand-in."""
    issued: list[str] = []
    tenants: list[str] = []
    clock = SimpleNamespace(now=0.0)
    clock.time = lambda: clock.now

    def credential(tenant_id: str, process_timeout: int) -> SimpleNamespace:
        assert process_timeout == login.CLI_SECONDS
        tenants.append(tenant_id)
        return SimpleNamespace(get_token=get_token)

    def get_token(scope: str) -> SimpleNamespace:
        issued.append(scope)
        return SimpleNamespace(token=f"token {len(issued)}", expires_on=clock.now + 3600)

    def token_at(now: float) -> str:
        clock.now = now
        return str(cli.get_token("https://a//.default").token)

    provide(monkeypatch, "azure.identity", AzureCliCredential=credential)
    monkeypatch.delenv(checks.TENANT_VARIABLE, raising=False)
    monkeypatch.setattr(login, "time", clock)
    cli = login.AzureCliLogin()
    used = [token_at(now) for now in (1_000.0, 4_000.0, 4_301.0, 9_000.0)]
    assert used == ["token 1", "token 1", "token 2", "token 3"]
    monkeypatch.setenv(checks.TENANT_VARIABLE, "a tenant")
    used_again = login.AzureCliLogin().get_token("https://b/.default")
    assert used_again.token.endswith("4")
    assert issued[-2:] == ["https://a//.default", "https://b/.default"]
    assert tenants[-2:] == ["", "a tenant"]


def test_a_call_that_never_ends_is_abandoned() -> None:
    with pytest.raises(ServiceError, match="no answer from the service in 0 seconds"):
        calls.call("wait", threading.Event().wait, seconds=0.05)


def failing(error: Exception, after: threading.Event | None = None) -> Callable[[], None]:
    def fail() -> None:
        if after is not None:
            assert after.wait(SECONDS)
        raise error

    return fail


def test_parallel_steps_return_their_values_in_order() -> None:
    both_began = threading.Barrier(2)

    def wait_for_other(value: int) -> int:
        both_began.wait(SECONDS)
        return value

    assert run_parallel(lambda: wait_for_other(1), lambda: wait_for_other(2), lambda: None) == [1, 2, None]


def test_of_several_errors_the_first_in_order_is_raised() -> None:
    second_failed = threading.Event()

    def second() -> None:
        try:
            raise ValueError("second")
        finally:
            second_failed.set()

    with pytest.raises(KeyError, match="first"):
        run_parallel(failing(KeyError("first"), after=second_failed), second)
    ended = []
    with pytest.raises(ValueError, match="fails"):
        run_parallel(failing(ValueError("fails")), lambda: ended.append(calls.call("end", lambda: "it")))
    assert ended == ["it"]


def test_an_interrupted_step_reports_nothing_and_calls_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A Ctrl-C during the lookup of a cluster prevents its creation."""
    is_interrupted, ended, created = threading.Event(), threading.Event(), []
    main = threading.get_ident()

    def find_and_create() -> None:
        try:
            signal.pthread_kill(main, signal.SIGINT)
            calls.call("find it", lambda: is_interrupted.wait(SECONDS))
            run_parallel(
                lambda: report("creating it"),
                lambda: calls.call("create it", lambda: created.append(1)),
            )
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        run_parallel(find_and_create)
    is_interrupted.set()
    assert ended.wait(SECONDS)
    assert created == []
    assert capsys.readouterr().err == ""
    report("the command continues")
    assert "continues" in capsys.readouterr().err


def test_a_thread_pool_left_by_the_sdk_prints_no_traceback() -> None:
    """It is a pool of Python's own without its pipe, as when Python ends."""
    code = """
import gc
from multiprocessing.pool import ThreadPool
from mnist_cnn.backends.azure.v1 import sdk

class Other:
    def __del__(self):
        raise ValueError("an error of another object")

sdk._silence_sdk()
pool = ThreadPool(1)
pool._change_notifier._writer.close()
other = Other()
del pool, other
gc.collect()
"""
    ended = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Pool.__del__" not in ended.stderr
    assert "an error of another object" in ended.stderr
