"""Calls to the service, each with a time-out, and the one place where the SDK's exceptions are translated.

The SDK is imported when it is first needed, `azureml.core` before any other part of it.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure.parallel import in_this_context, stop_if_cancelled
from mnist_cnn.errors import BackendError, storage_error
from mnist_cnn.redaction import redact, without_secrets
from mnist_cnn.terminal.output import lossy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mnist_cnn.backends.azure.checks import WorkspaceName

T = TypeVar("T")

CALL_SECONDS = 120.0
"""How long a call may take with the SDK's own retries, which last 41 s where the service answers 503."""
STILL_SECONDS = 30.0
ATTEMPTS = 3
UNREACHABLE = {"ConnectionError", "ServiceRequestError", "ServiceResponseError", "ClientRequestError"}
"""The exceptions of the network, by their names in the libraries that the SDK uses."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
RETRIED = (408, 429, 500, 502, 503, 504)
TOKEN_SECONDS = 300.0
"""How long a token must still be good to be used."""
_tokens: dict[str, Any] = {}
_tokens_lock = threading.Lock()
_STATUS = re.compile(r"(?:Response Code|Code|status_code|StatusCode)[\"']?[:=\s]+[\"']?(\d{3})\b")
_LOGIN_CODES = {
    "AADSTS7000222": "the secret has expired; make a new one in Microsoft Entra",
    "AADSTS7000215": "the secret is wrong; AZUREML_SERVICE_PRINCIPAL_PASSWORD is its value, not its id",
    "AADSTS700016": "there is no such application in this tenant; see AZUREML_SERVICE_PRINCIPAL_ID",
    "AADSTS90002": "there is no such tenant; see AZUREML_SERVICE_PRINCIPAL_TENANT_ID",
}


class ServiceError(BackendError):
    """A call that failed: `status` is HTTP's, None where no answer came; `detail` what the SDK said.

    One that `is_given_up` may still be carried out: nobody waits for its answer any more.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        status: int | None = None,
        detail: str = "",
        is_given_up: bool = False,
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.detail = detail
        self.is_given_up = is_given_up


def say(line: str) -> None:
    """Tell a person what is going on, if one reads it; on stderr, for stdout may have to be JSON."""
    stop_if_cancelled()
    print(line, file=lossy(sys.stderr), flush=True)


def call(what: str, act: Callable[[], T], seconds: float = CALL_SECONDS) -> T:
    """Call the service by `act`, for `seconds` at most; `what` words it: "find the cluster".

    The SDK's own calls mostly have no time-out, so each is made in a thread that can be given up. Where one
    takes long, a line now and then says that it is still waited for.

    Raises:
        ServiceError: it failed, or did not end in time.
        BackendError: the disk here does not take what it brings.
    """
    stop_if_cancelled()
    outcome: dict[str, Any] = {}

    def attempt() -> None:
        try:
            outcome["value"] = act()
        except BaseException as error:  # noqa: BLE001 - SystemExit too; it is raised where it is waited for
            outcome["error"] = error

    thread = in_this_context(attempt)
    deadline = time.monotonic() + seconds
    while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
        thread.join(min(left, STILL_SECONDS))
        if thread.is_alive() and left > STILL_SECONDS:
            say(f"still trying to {what}, for {left - STILL_SECONDS:.0f} seconds more at most")
    if thread.is_alive():
        message = f"cannot {what}: no answer from the service in {seconds:.0f} seconds"
        raise ServiceError(message, "look at the network and try again", is_given_up=True)
    if "error" in outcome:
        raise translate(what, outcome["error"]) from without_secrets(outcome["error"])
    value: T = outcome["value"]
    return value


def call_again(what: str, act: Callable[[], T], seconds: float = CALL_SECONDS) -> T:
    """Do as `call`, trying again where the service was busy or away; for what may be done twice."""
    for attempt in range(1, ATTEMPTS):
        try:
            return call(what, act, seconds)
        except ServiceError as error:
            if error.status is not None and error.status not in RETRIED:
                raise
            say(f"{error.message}; trying again")
            time.sleep(2**attempt)
    return call(what, act, seconds)


def translate(what: str, error: BaseException) -> BackendError:
    """Word an exception of the SDK, of its HTTP library, of the network or the disk, without secrets."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, OSError) and link.filename and link.errno in DISK_ERRORS:
            return storage_error(link, str(link.filename))
    detail = redact(" ".join(" ".join(str(link).split()) for link in chain))
    status = next((code for link in chain if (code := _status_of(link)) is not None), None)
    names = {name for link in chain for name in (cls.__name__ for cls in type(link).__mro__)}
    if status is None and names & UNREACHABLE:
        message = f"cannot {what}: the service cannot be reached ({_first_sentence(chain[-1])})"
        return ServiceError(message, "look at the network and try again", detail=detail)
    login = re.search(r"AADSTS\d+", detail)
    if login or "AuthenticationException" in names or "ClientAuthenticationError" in names:
        reason = login.group() if login else _first_sentence(chain[0])
        hint = _LOGIN_CODES.get(
            login.group() if login else "", "look at the credentials, or log in with az login"
        )
        return ServiceError(
            f"cannot {what}: the login was refused ({reason})", hint, status=401, detail=detail
        )
    hints = {
        401: "log in again; the credentials are not accepted",
        403: "ask for a role such as AzureML Data Scientist on the workspace and its storage",
        404: "it is not there; look at the workspace's config.json and the names of this run",
        429: "the service is busy; try again in a minute",
    }
    if "quota" in detail.lower():
        hint = "ask for more cores of this family in the Azure portal, or choose another backend.vm_size"
    else:
        hint = hints.get(status or 0, "try again; the studio may say more: https://ml.azure.com")
    reason = f"HTTP {status}, {_first_sentence(error)}" if status else _first_sentence(error)
    return ServiceError(f"cannot {what}: {reason}", hint, status=status, detail=detail)


@functools.cache
def open_workspace(name: WorkspaceName) -> Any:
    """Log in and return the workspace; once in a process, however many runs it has.

    Raises:
        ServiceError: the login is refused, or there is no such workspace.
    """
    checks.sdk()
    credentials = checks.credentials()
    _hush_the_sdk()
    _keep_git_to_ourselves()

    def open_it() -> Any:
        from azureml.core import Workspace

        workspace = Workspace.get(
            name=name.name,
            auth=_login(credentials),
            subscription_id=name.subscription_id,
            resource_group=name.resource_group,
        )
        # Where the service does not answer, the SDK returns a workspace all the same; this asks it.
        if not workspace.location:
            raise ConnectionError("it says nothing of itself")
        return workspace

    seconds = 900 if credentials is checks.Credentials.interactive else CALL_SECONDS
    return call(f"open the workspace {name.name} as {credentials.value}", open_it, seconds)


def _hush_the_sdk() -> None:
    """Keep the SDK's warnings from the terminal; some of them it logs as nobody, on the root logger.

    It also leaves pools of threads to Python's end, which may print a traceback of their removal.
    """
    tell = sys.unraisablehook

    def tell_what_is_not_the_sdks(unraisable: sys.UnraisableHookArgs) -> None:
        if getattr(unraisable.object, "__qualname__", None) != "Pool.__del__":
            tell(unraisable)

    sys.unraisablehook = tell_what_is_not_the_sdks
    for noisy in ("azureml", "azure", "msrest", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(lambda record: "azureml" not in record.pathname)


def _keep_git_to_ourselves() -> None:
    """Keep the SDK from sending the address of the git repository in which the temporary folder may lie.

    That address may hold a password, and the repository is not where the code comes from.
    """
    from azureml._base_sdk_common.tracking import global_tracking_info_registry

    global_tracking_info_registry.providers.clear()


def _login(credentials: checks.Credentials) -> Any:
    from azureml.core import authentication

    if credentials is checks.Credentials.service_principal:
        tenant, principal, password = (os.environ[name] for name in checks.PRINCIPAL_VARIABLES)
        return authentication.ServicePrincipalAuthentication(tenant, principal, password)
    if credentials is checks.Credentials.azure_cli:
        # The SDK's own wants the whole Azure CLI installed into this very environment.
        return authentication.TokenAuthentication(_token_of_azure_cli)
    return authentication.InteractiveLoginAuthentication()


@functools.cache
def _azure_cli() -> Any:
    from azure.identity import AzureCliCredential

    return AzureCliCredential()


def _token_of_azure_cli(audience: str) -> str:
    """Ask the Azure CLI for a token, and again when that is nearly over; each time takes a second."""
    with _tokens_lock:  # of two that want one at the same time, one asks
        token = _tokens.get(audience)
        if token is None or token.expires_on - time.time() < TOKEN_SECONDS:
            _tokens[audience] = token = _azure_cli().get_token(f"{audience.rstrip('/')}/.default")
        return str(token.token)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and what it came from, in the ways in which the SDK keeps that."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "inner_exception", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__


def _status_of(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    for found in (getattr(error, "status_code", None), getattr(response, "status_code", None)):
        if isinstance(found, int):
            return found
    match = _STATUS.search(str(error))
    return int(match.group(1)) if match else None


def _first_sentence(error: BaseException) -> str:
    """Return the words of an exception that say most, on one line and without secrets."""
    text = redact(" ".join(str(getattr(error, "message", None) or error).split()))
    told = re.search(r"[\"']message[\"']:\s*[\"']([^\"']{3,})", text)
    return (told.group(1) if told else text)[:300] or type(error).__name__
