"""Logs in to a workspace, for both SDKs."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure.calls import CALL_SECONDS, call

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnist_cnn.backends.azure.config import Sdk

T = TypeVar("T")

INTERACTIVE_SECONDS = 900.0
"""How long a login in a browser may take."""
TOKEN_SECONDS = 300.0
"""Shortest remaining lifetime of a token that is used."""

CLI_SECONDS = 60
"""Time limit for the CLI to return a token.

The library's limit of 10 is short for a busy machine.
"""


def open_workspace(sdk: Sdk, name: checks.WorkspaceName, get: Callable[[checks.Credentials], T]) -> T:
    """Log in, and return what `get` opens.

    Raises ConfigurationError or ServiceError.
    """
    checks.check_sdk(sdk)
    credentials = checks.credentials()
    seconds = INTERACTIVE_SECONDS if credentials is checks.Credentials.interactive else CALL_SECONDS
    return call(f"open the workspace {name.name} as {credentials.value}", partial(get, credentials), seconds)


class AzureCliLogin:
    """The login of the Azure CLI, with cached tokens.

    The CLI takes a second to return a token, and SDK v2 asks once for each of its twenty clients.
    """

    def __init__(self) -> None:
        from azure.identity import AzureCliCredential

        self._credential = AzureCliCredential(tenant_id=checks.tenant() or "", process_timeout=CLI_SECONDS)
        self._tokens: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()

    def get_token(self, *scopes: str, **_: Any) -> Any:
        """Return a token for these scopes."""
        with self._lock:
            token = self._tokens.get(scopes)
            if token is None or token.expires_on - time.time() < TOKEN_SECONDS:
                self._tokens[scopes] = token = self._credential.get_token(*scopes)
            return token
