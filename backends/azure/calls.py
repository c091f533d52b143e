"""Calls Azure's SDKs with time limits and retries.

Translates their exceptions.
"""

from __future__ import annotations

import errno
import re
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING, TypeVar

from mnist_cnn.backends.azure.outcome import filled
from mnist_cnn.backends.remote.calls import report, with_retries
from mnist_cnn.backends.remote.parallel import start_thread, stop_if_cancelled
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.errors import BackendError, storage_error
from mnist_cnn.redaction import redact, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

CALL_SECONDS = 120.0
"""Time limit of a call, including the SDK's retries.

Those of v1 last 41 s after HTTP 503.
"""
STILL_WAITING_SECONDS = 30.0
"""Interval between reports that a call is still running."""
UNREACHABLE = {"ConnectionError", "ServiceRequestError", "ServiceResponseError", "ClientRequestError"}
"""Names of network exceptions in the SDKs' libraries."""
UNAUTHORIZED = 401
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
KEYS_REFUSED = "KeyBasedAuthenticationNotPermitted"
"""How a storage account refuses its keys.

It refuses tokens signed with them in the same way.
"""
STUDIO = "https://ml.azure.com"
_STATUS = re.compile(r"(?:Response Code|Code|status_code|StatusCode)[\"']?[:=\s]+[\"']?(\d{3})\b")
_WRONG_SUBSCRIPTION = re.compile(r"access to (\S+) subscription|subscription name, (\S+), instead")
_SUBSCRIPTION_HINT = "check the subscription_id in config.json, or log in with an account that has access"
_LOGIN_HINTS = {
    "AADSTS7000222": "the secret has expired; create a new one in Microsoft Entra",
    "AADSTS7000215": "the secret is wrong; AZUREML_SERVICE_PRINCIPAL_PASSWORD or AZURE_CLIENT_SECRET must be "
    "its value, not its id",
    "AADSTS700016": "this tenant has no such application; "
    "check AZUREML_SERVICE_PRINCIPAL_ID or AZURE_CLIENT_ID",
    "AADSTS90002": "no such tenant; check AZUREML_SERVICE_PRINCIPAL_TENANT_ID or AZURE_TENANT_ID",
}
_HINTS = {
    UNAUTHORIZED: "log in again: the service does not accept the credentials",
    404: "check the workspace's config.json, and that the run and the cluster still exist",
    429: "the service is busy; try again in a minute",
}
_REASON_HINTS = {
    KEYS_REFUSED: (
        "the storage account refuses keys: your login needs the role Storage Blob Data Contributor on it; "
        "SDK v1 can't use that, so set backend.sdk=v2"
    ),
    "private link configuration": "run this command on a machine in the workspace's private network",
    "ImageBuildComputeNotValid": "set a cluster that builds images, as the workspace's image build compute",
}
"""Hints for what the service says in these words."""
_BLOB_STEP = re.compile(r"(?:send|list|read|remove|download) .*(?:[./]\S|datastore$|log$)")
QUOTA_HINT = "ask for more cores of this family in the Azure portal, or choose another backend.vm_size"
NETWORK_HINT = "check the network and try again"


def is_about_quota(detail: str) -> bool:
    """Return whether the service refused something for a quota."""
    return "quota" in detail.lower()


def call(what: str, act: Callable[[], T], seconds: float = CALL_SECONDS) -> T:
    """Return what `act` returns, or abandon it after `seconds`.

    `what` is an infinitive: "find the cluster". Most calls of the SDK have no time-out, so each runs in a
    thread that can be abandoned.

    Raises:
        ServiceError: the call failed, or took too long.
        BackendError: the local disk refused a file.
    """
    stop_if_cancelled()
    future = start_thread(act)
    deadline = time.monotonic() + seconds
    while not future.done() and (left := deadline - time.monotonic()) > 0:
        wait([future], min(left, STILL_WAITING_SECONDS))
        if not future.done() and left > STILL_WAITING_SECONDS:
            left -= STILL_WAITING_SECONDS
            report(f"still trying to {what}; waiting for up to {left:.0f} seconds more")
    if not future.done():
        message = f"cannot {what}: no answer from the service in {seconds:.0f} seconds"
        raise ServiceError(message, NETWORK_HINT, is_abandoned=True)
    error = future.exception()  # even SystemExit and KeyboardInterrupt
    if error is not None:
        raise translate(what, error) from without_secrets(error)
    return future.result()


def call_with_retries(what: str, act: Callable[[], T], seconds: float = CALL_SECONDS) -> T:
    """Call as `call` does, and retry transient failures.

    `act` must be safe to repeat.
    """
    return with_retries(lambda: call(what, act, seconds))


def translate(what: str, error: BaseException) -> BackendError:
    """Return the BackendError for an exception, without secrets."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, OSError) and link.filename and link.errno in DISK_ERRORS:
            return storage_error(link, str(link.filename))
    detail = redact(" ".join(" ".join(str(link).split()) for link in chain))
    status = next((code for link in chain if (code := _status_of(link)) is not None), None)
    names = {name for link in chain for name in (cls.__name__ for cls in type(link).__mro__)}
    if status is None and names & UNREACHABLE:
        message = f"cannot {what}: cannot reach the service ({_first_sentence(chain[-1])})"
        return ServiceError(message, NETWORK_HINT, detail=detail)
    login = re.search(r"AADSTS\d+", detail)
    if login or "AuthenticationException" in names or "ClientAuthenticationError" in names:
        return _login_error(what, login.group() if login else _first_sentence(chain[0]), status, detail)
    if subscription := _WRONG_SUBSCRIPTION.search(detail):
        reason = f"this login has no access to a subscription {subscription[1] or subscription[2]}"
        return ServiceError(
            f"cannot {what}: {reason}", _SUBSCRIPTION_HINT, status=UNAUTHORIZED, detail=detail
        )
    said = next((hint for words, hint in _REASON_HINTS.items() if words in detail), None)
    if said:
        hint = said
    elif is_about_quota(detail):
        hint = QUOTA_HINT
    elif status == 403:  # noqa: PLR2004
        hint = _role_hint(what)
    else:
        hint = _HINTS.get(status or 0, f"try again; the studio may show more: {STUDIO}")
    reason = f"HTTP {status}, {_first_sentence(error)}" if status else _first_sentence(error)
    return ServiceError(f"cannot {what}: {reason}", hint, status=status, detail=detail)


def _login_error(what: str, reason: str, status: int | None, detail: str) -> ServiceError:
    """Return the error of a failed login.

    Its status is 401 only if another attempt would be refused too.
    """
    if status == UNAUTHORIZED or "AADSTS" in detail or "az login" in detail:
        message = f"cannot {what}: the login was refused ({reason})"
        hint = _LOGIN_HINTS.get(reason, "check the credentials, or log in with az login")
        return ServiceError(message, hint, status=UNAUTHORIZED, detail=detail)
    message = f"cannot {what}: the login failed ({reason})"
    hint = "try again in a minute; if it fails again, check the credentials or log in with az login"
    return ServiceError(message, hint, status=status, detail=detail)


def _role_hint(what: str) -> str:
    """Return which role a refused step needs."""
    if "cluster" in what:
        return "ask for the role AzureML Compute Operator on the workspace"
    if _BLOB_STEP.match(what):
        role = "ask for the role Storage Blob Data Contributor on the storage account"
        return f"{role}; if it has a firewall, that must allow this machine"
    return "ask for the role AzureML Data Scientist on the workspace"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes.

    These include the SDK's `inner_exception`.
    """
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
    """Return an exception's message on one line, without secrets."""
    parsed = getattr(getattr(error, "error", None), "message", None)  # of the answer, by SDK v2
    said = parsed if isinstance(parsed, str) and parsed else getattr(error, "message", None) or error
    text = filled(redact(" ".join(str(said).split())), {})
    match = re.search(r"[\"']message[\"']:\s*[\"']([^\"']{3,})", text)
    return (match.group(1) if match else text)[:300] or type(error).__name__
