"""Login: the identity platform's answers, and the tokens that authorise a client's requests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from urllib.parse import parse_qs

from .messages import Json, Request, Response, answer
from .refusals import Refusal
from .routes import Route
from .tenancy import LOGIN, Tenancy

TOKEN_SECONDS = 3599
LONG_TOKEN_SECONDS = 86399
"""For clients that say that they react to a token's revocation (capability CP1), as MSAL does."""
MANAGEMENT_AUDIENCE = "https://management.core.windows.net/"


class Identity:
    """Issues tokens; `refuse_with` (error, description) makes every login fail with Azure's message."""

    def __init__(self, tenancy: Tenancy) -> None:
        self.tenancy = tenancy
        self.refuse_with: tuple[str, str] | None = None
        self._key = secrets.token_bytes(32)
        self.issued: list[str] = []
        """All tokens so far."""

    def routes(self) -> list[Route]:
        openid = "/{tenant}/v2.0/.well-known/openid-configuration"
        return [
            Route("GET", LOGIN, openid, self.describe, needs_token=False),
            Route("GET", LOGIN, "/common/discovery/instance", self.discover, needs_token=False),
            Route("POST", LOGIN, "/{tenant}/oauth2/v2.0/token", self.log_in, needs_token=False),
            Route("POST", LOGIN, "/{tenant}/oauth2/token", self.log_in, needs_token=False),
        ]

    def expire_secret(self) -> None:
        """Refuse every login from now on because the client secret has expired."""
        text = "AADSTS7000222: The provided client secret keys for app are expired."
        self.refuse_with = ("invalid_client", text)

    def describe(self, request: Request) -> Response:
        base = f"https://{LOGIN}/{request.names['tenant']}"
        return answer(
            {
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "tenant_region_scope": "WW",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            }
        )

    def discover(self, request: Request) -> Response:
        """Return this cloud's hosts; MSAL asks for them after a refused login or with a cached token."""
        aliases = [LOGIN, "login.windows.net", "login.microsoft.com", "sts.windows.net"]
        cloud = {"preferred_network": LOGIN, "preferred_cache": "login.windows.net", "aliases": aliases}
        return answer(
            {
                "tenant_discovery_endpoint": f"https://{LOGIN}/common/v2.0/.well-known/openid-configuration",
                "api-version": request.query.get("api-version", "1.1"),
                "metadata": [cloud],
            }
        )

    def log_in(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        have = self.tenancy
        if request.names["tenant"] != have.tenant:
            text = f"AADSTS90002: Tenant '{request.names['tenant']}' not found."
            return self._refused(400, "invalid_request", text)
        if self.refuse_with is not None:
            return self._refused(401, *self.refuse_with)
        if form.get("client_id") != have.client:
            text = f"AADSTS700016: Application with identifier '{form.get('client_id')}' was not found."
            return self._refused(400, "unauthorized_client", text)
        if form.get("client_secret") != have.client_secret:
            text = f"AADSTS7000215: Invalid client secret provided for app '{have.client}'."
            return self._refused(401, "invalid_client", text)
        scope = (form.get("scope") or "").partition(" ")[0].removesuffix("/.default")
        audience = scope or form.get("resource") or MANAGEMENT_AUDIENCE
        seconds = LONG_TOKEN_SECONDS if "CP1" in form.get("claims", "") else TOKEN_SECONDS
        expiry = {"expires_in": seconds, "ext_expires_in": seconds}
        if seconds == LONG_TOKEN_SECONDS:
            expiry["refresh_in"] = seconds // 2
        token = self.token(seconds, appid=have.client, oid=have.client, aud=audience)
        return answer({"token_type": "Bearer", **expiry, "access_token": token})

    def token(self, seconds: int = TOKEN_SECONDS, **claims: str) -> str:
        """Return a signed token (JWT) that is valid for some seconds."""
        tenant, issued = self.tenancy.tenant, int(time.time())
        who = {"aud": MANAGEMENT_AUDIENCE, "iss": f"https://sts.windows.net/{tenant}/"}
        when = {"iat": issued, "nbf": issued, "exp": issued + seconds}
        body = {**who, **when, "tid": tenant, **claims}
        text = ".".join(_base64(json.dumps(part)) for part in ({"typ": "JWT", "alg": "HS256"}, body))
        self.issued.append(f"{text}.{self._signature(text)}")
        return self.issued[-1]

    def require_token(self, request: Request, audience: str | None = None) -> None:
        """Check that a request has a valid token, for this audience if one is given.

        Raises:
            Refusal: the token is missing, expired, for others, or not signed by this service.
        """
        headers = {name.lower(): text for name, text in request.headers.items()}
        kind, _, token = headers.get("authorization", "").partition(" ")
        text, _, signature = token.rpartition(".")
        if kind != "Bearer" or not hmac.compare_digest(signature, self._signature(text)):
            raise Refusal(401, "InvalidAuthenticationToken", "The access token is invalid.")
        padded = text.partition(".")[2] + "=="
        claims = json.loads(base64.urlsafe_b64decode(padded))
        if claims["exp"] < time.time():
            raise Refusal(401, "ExpiredAuthenticationToken", "The access token expiry is in the past.")
        if audience is not None and claims["aud"].rstrip("/") != audience:
            raise Refusal(401, "InvalidAuthenticationInfo", f"The token is for {claims['aud']}.")

    def _signature(self, text: str) -> str:
        digest = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def _refused(self, status: int, error: str, description: str) -> Response:
        number = int(description.partition(":")[0].removeprefix("AADSTS"))
        reply: Json = {"error": error, "error_description": description, "error_codes": [number]}
        return answer(reply, status)


def _base64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
