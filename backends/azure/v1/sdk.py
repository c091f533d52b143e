"""Logs in and opens the workspace.

The SDK is imported when it is first needed, `azureml.core` before any other part of it.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure import checks, login
from mnist_cnn.backends.azure.config import Sdk

if TYPE_CHECKING:
    from mnist_cnn.backends.azure.checks import WorkspaceName


@functools.cache
def open_workspace(name: WorkspaceName) -> Any:
    """Log in and return the workspace, once per process.

    Raises ServiceError or ConfigurationError.
    """

    def get_workspace(credentials: checks.Credentials) -> Any:
        _silence_sdk()
        _disable_git_tracking()
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

    return login.open_workspace(Sdk.v1, name, get_workspace)


def _silence_sdk() -> None:
    """Keep the SDK's warnings off the terminal.

    It logs some on the root logger. It also leaves thread pools to Python's shutdown, where their removal may
    print a traceback.
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
    """Keep the SDK from sending a git repository's address.

    The address may contain a password, and the code does not come from that repository.
    """
    from azureml._base_sdk_common.tracking import global_tracking_info_registry

    global_tracking_info_registry.providers.clear()


def _login(credentials: checks.Credentials) -> Any:
    from azureml.core import authentication

    if credentials is checks.Credentials.service_principal:
        return authentication.ServicePrincipalAuthentication(*checks.principal())
    if credentials is checks.Credentials.azure_cli:
        # The SDK's own class needs the Azure CLI installed in this Python environment.
        # Some audiences end in a slash and others don't. Of a scope, the library removes "/.default" alone.
        cli = login.AzureCliLogin()
        return authentication.TokenAuthentication(
            lambda audience: cli.get_token(f"{audience}/.default").token
        )
    return authentication.InteractiveLoginAuthentication(tenant_id=checks.tenant())
