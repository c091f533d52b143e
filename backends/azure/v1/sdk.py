"""Logs in and opens the workspace.

The SDK is imported when it is first needed, `azureml.core` before any other part of it.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure.calls import CALL_SECONDS, call

if TYPE_CHECKING:
    from mnist_cnn.backends.azure.checks import WorkspaceName

TOKEN_SECONDS = 300.0
"""How long a token must still be valid to be used."""
_tokens: dict[str, Any] = {}
_tokens_lock = threading.Lock()


@functools.cache
def open_workspace(name: WorkspaceName) -> Any:
    """Log in and return the workspace, once per process. Raises ServiceError."""
    checks.check_sdk()
    credentials = checks.credentials()
    _silence_sdk()
    _disable_git_tracking()

    def get_workspace() -> Any:
        from azureml.core import Workspace

        workspace = Workspace.get(
            name=name.name,
            auth=_login(credentials),
            subscription_id=name.subscription_id,
            resource_group=name.resource_group,
        )
        # The SDK returns a workspace even if the service did not answer, but one without a location.
        if not workspace.location:
            raise ConnectionError("the service returned no details of the workspace")
        return workspace

    seconds = 900 if credentials is checks.Credentials.interactive else CALL_SECONDS
    return call(f"open the workspace {name.name} as {credentials.value}", get_workspace, seconds)


def _silence_sdk() -> None:
    """Keep the SDK's warnings off the terminal; it logs some of them on the root logger.

    It also leaves thread pools to Python's shutdown, where their removal may print a traceback.
    """
    hook = sys.unraisablehook

    def skip_pools(unraisable: sys.UnraisableHookArgs) -> None:
        if getattr(unraisable.object, "__qualname__", None) != "Pool.__del__":
            hook(unraisable)

    sys.unraisablehook = skip_pools
    for name in ("azureml", "azure", "msrest", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(lambda record: "azureml" not in record.pathname)


def _disable_git_tracking() -> None:
    """Keep the SDK from sending the address of a git repository around the temporary folder.

    The address may contain a password, and the code does not come from that repository.
    """
    from azureml._base_sdk_common.tracking import global_tracking_info_registry

    global_tracking_info_registry.providers.clear()


def _login(credentials: checks.Credentials) -> Any:
    from azureml.core import authentication

    if credentials is checks.Credentials.service_principal:
        tenant, principal, password = (os.environ[name] for name in checks.PRINCIPAL_VARIABLES)
        return authentication.ServicePrincipalAuthentication(tenant, principal, password)
    if credentials is checks.Credentials.azure_cli:
        # The SDK's own class needs the Azure CLI installed in this Python environment.
        return authentication.TokenAuthentication(_azure_cli_token)
    return authentication.InteractiveLoginAuthentication(tenant_id=checks.tenant())


def _azure_cli_token(audience: str) -> str:
    """Return a token of the Azure CLI; cached until shortly before it expires, because it takes a second.

    Some audiences end in a slash and others don't. Of a scope, the library removes "/.default" alone.
    """
    from azure.identity import AzureCliCredential

    with _tokens_lock:
        token = _tokens.get(audience)
        if token is None or token.expires_on - time.time() < TOKEN_SECONDS:
            credential = AzureCliCredential(tenant_id=checks.tenant() or "")
            _tokens[audience] = token = credential.get_token(f"{audience}/.default")
        return str(token.token)
