"""Which credential opens a datastore's container. The SDK's client is a stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mnist_cnn.backends.azure.v2 import store
from mnist_cnn.backends.remote.service import ServiceError

SECRETS = "Microsoft.MachineLearningServices/workspaces/datastores/listSecrets/action"


class Refused(Exception):  # noqa: N818 - only its status and its text matter
    status_code = 403


class Datastores:
    """Refuses to hand out secrets, with a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def get_default(self, *, include_secrets: bool = False) -> str:
        if include_secrets:
            raise Refused(self._text)
        return "without secrets"


def find(text: str) -> Any:
    workspace: Any = SimpleNamespace(client=SimpleNamespace(datastores=Datastores(text)))
    return store._find(workspace, "")  # noqa: SLF001


def test_a_login_that_may_not_read_secrets_opens_the_container_itself() -> None:
    assert find(f"The client does not have authorization to perform action '{SECRETS}'") == "without secrets"


def test_a_datastore_that_may_not_be_read_is_refused() -> None:
    with pytest.raises(ServiceError, match="cannot find the default datastore: HTTP 403"):
        find("The client does not have authorization to perform action 'datastores/read'")
