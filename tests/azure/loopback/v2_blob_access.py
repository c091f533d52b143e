"""Lets requests with a login token into the blob store; keeps keys out if the account refuses them."""

from __future__ import annotations

import dataclasses
import urllib.parse
from typing import TYPE_CHECKING

from .refusals import Refusal

if TYPE_CHECKING:
    from .blobs import BlobStore
    from .identity import Identity
    from .messages import Request
    from .workspace import Workspace

STORAGE = "https://storage.azure.com"
"""The audience of login tokens for blobs."""


class BlobAccess:
    """Checks who may read and write blobs, before the blob store gets a request."""

    def __init__(self, blobs: BlobStore, identity: Identity, workspace: Workspace) -> None:
        self.blobs = blobs
        self.identity = identity
        self.workspace = workspace

    def admit(self, request: Request) -> Request:
        """Return the request as the blob store accepts it: a valid login token becomes a signature.

        Raises:
            Refusal: the token isn't valid, or the account accepts tokens only.
        """
        headers = {name.lower(): text for name, text in request.headers.items()}
        kind = headers.get("authorization", "").partition(" ")[0]
        if kind == "Bearer":
            self.identity.require_token(request, STORAGE)
            return self._signed(request)
        # A signature for a container is by the account's key, one for a blob by the service's own identity.
        is_by_key = kind == "SharedKey" or "srt" in request.query or request.query.get("sr") == "c"
        if is_by_key and not (self.workspace.has_keys and self.workspace.takes_keys):
            text = "Key based authentication is not permitted on this storage account."
            raise Refusal(403, "KeyBasedAuthenticationNotPermitted", text)
        return request

    def _signed(self, request: Request) -> Request:
        query = {**request.query, **self.blobs.account_signature()}
        path = request.target.partition("?")[0]
        headers = {n: text for n, text in request.headers.items() if n.lower() != "authorization"}
        return dataclasses.replace(request, target=f"{path}?{urllib.parse.urlencode(query)}", headers=headers)
