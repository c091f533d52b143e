"""Which handler answers which request: a table of method, host and path template.

`<WS>` in a template stands for the full path of the workspace.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .messages import Request, Response
from .refusals import Refusal

if TYPE_CHECKING:
    from .tenancy import Tenancy

Handler = Callable[[Request], Response]
WORKSPACE = (
    "/subscriptions/{subscription}/resourceGroups/{group}"
    "/providers/Microsoft.MachineLearningServices/workspaces/{workspace}"
)


@dataclasses.dataclass(frozen=True)
class Route:
    """A row of the table; `{*name}` in the template matches slashes too."""

    method: str
    host: str
    template: str
    handler: Handler
    needs_token: bool = True

    def match(self, request: Request) -> dict[str, str] | None:
        """Return the request's values of the template's names, or None if it doesn't match."""
        if (request.method, request.host) != (self.method, self.host):
            return None
        found = _pattern(self.template).fullmatch(request.path)
        return found.groupdict() if found else None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    escaped = re.escape(template.replace("<WS>", WORKSPACE))
    slashes = re.sub(r"\\{\\\*(\w+)\\}", r"(?P<\1>.+)", escaped)
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", slashes), re.IGNORECASE)


class Router:
    """The whole table; the first route that matches answers."""

    def __init__(self, tenancy: Tenancy, routes: Iterable[Route]) -> None:
        self.tenancy = tenancy
        self.routes = list(routes)

    def find(self, request: Request) -> tuple[Route, Request] | None:
        """Return the request's route, and the request with its names; None if no route matches.

        Raises:
            Refusal: the request names another subscription, resource group or workspace.
        """
        for route in self.routes:
            names = route.match(request)
            if names is not None:
                self._require_workspace(names)
                return route, dataclasses.replace(request, names=names)
        return None

    def _require_workspace(self, names: dict[str, str]) -> None:
        have = self.tenancy
        if names.get("subscription", have.subscription).lower() != have.subscription.lower():
            text = f"The subscription '{names['subscription']}' could not be found."
            raise Refusal(404, "SubscriptionNotFound", text)
        if names.get("group", have.group).lower() != have.group.lower():
            text = f"Resource group '{names['group']}' could not be found."
            raise Refusal(404, "ResourceGroupNotFound", text)
        if names.get("workspace", have.workspace).lower() != have.workspace.lower():
            what = f"Microsoft.MachineLearningServices/workspaces/{names['workspace']}"
            text = f"The Resource '{what}' under resource group '{names['group']}' was not found."
            raise Refusal(404, "ResourceNotFound", text)
