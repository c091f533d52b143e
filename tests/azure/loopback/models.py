"""Model management: assets and models; the service assigns a model's version."""

from __future__ import annotations

import re
import threading
import uuid

from . import rules
from .messages import Json, Request, Response, answer
from .refusals import Refusal, now
from .routes import Route
from .tenancy import MODELS

MANAGEMENT = "/modelmanagement/v1.0<WS>"


class Models:
    """Registered models, by `name:version`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._assets: dict[str, Json] = {}
        self._models: dict[str, Json] = {}

    def routes(self) -> list[Route]:
        return [
            Route("POST", MODELS, f"{MANAGEMENT}/assets", self.create_asset),
            Route("POST", MODELS, f"{MANAGEMENT}/models", self.register),
            Route("GET", MODELS, f"{MANAGEMENT}/models", self.list),
            Route("DELETE", MODELS, f"{MANAGEMENT}/models/{{model}}", self.delete),
        ]

    def all(self) -> list[Json]:
        """Return all models, oldest first, for tests."""
        with self._lock:
            return list(self._models.values())

    def put(self, model: Json) -> Json:
        """Store a model under its id, and return it."""
        with self._lock:
            self._models[model["id"]] = model
        return model

    def remove(self, model_id: str) -> bool:
        """Delete a model; return whether it existed."""
        with self._lock:
            return self._models.pop(model_id, None) is not None

    def create_asset(self, request: Request) -> Response:
        asset = {**request.json(), "id": uuid.uuid4().hex, "createdTime": now()}
        with self._lock:
            self._assets[asset["id"]] = asset
        return answer(asset)

    def register(self, request: Request) -> Response:
        sent = request.json()
        name, asset = sent.get("name") or "", (sent.get("url") or "").removeprefix("aml://asset/")
        if not re.search(rules.facts()["patterns"]["arm_v2_asset_name"], name):
            raise Refusal(400, "BadRequest", f"The model name {name!r} is invalid.")
        with self._lock:
            if asset not in self._assets:
                raise Refusal(400, "BadRequest", f"The model's asset {asset!r} was not found.")
            versions = [model["version"] for model in self._models.values() if model["name"] == name]
            version = max(versions, default=0) + 1
            model_id = f"{name}:{version}"
            made = {"id": model_id, "version": version, "createdTime": now(), "modifiedTime": now()}
            model = self._models[model_id] = {**sent, **made}
        return answer(model)

    def list(self, request: Request) -> Response:
        """Return models by name, run and tags, newest first, in pages of `count`."""
        query = request.query
        tags = [tag.partition("=") for tag in (query.get("tags") or "").split(",") if tag]
        with self._lock:
            found = [
                model
                for model in reversed(self._models.values())
                if query.get("name") in {None, model["name"]}
                and query.get("runId") in {None, model.get("runId")}
                and all(
                    key in (model.get("kvTags") or {}) and (not equals or model["kvTags"][key] == value)
                    for key, equals, value in tags
                )
            ]
        start, size = int(query.get("$skipToken") or 0), int(query.get("count") or 100)
        reply: Json = {"value": found[start : start + size]}
        if start + size < len(found):
            reply["nextLink"] = f"https://{MODELS}{request.path}?$skipToken={start + size}"
        return answer(reply)

    def delete(self, request: Request) -> Response:
        return answer(status=200 if self.remove(request.names["model"]) else 204)
