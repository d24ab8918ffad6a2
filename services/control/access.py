"""Who may do what by the management API: one table of all routes, and the guard that keeps it.

A route that the table does not know stops the start, so none can be forgotten.
"""

from collections.abc import Sequence

from aiohttp import web

from services.control.api_targets import ONE, PATH, SWITCHES
from services.control.requests import ADDRESS, CALLER
from tas_mcp.auth import Authentication
from tas_mcp.callers import Scope
from tas_mcp.errors import TasError
from tas_mcp.http import Handler, failure, request_id
from tas_mcp.tls import names

SCHEMA = "/api/v1/schemas/{name}"
KEYS = "/api/v1/keys"
REVISIONS = "/api/v1/revisions"
DEAD = "/api/v1/dead-letters"
REJECTED = "/api/v1/rejected"

SCOPES: dict[tuple[str, str], Scope] = {
    ("GET", PATH): "targets:read",
    ("POST", PATH): "targets:write",
    ("GET", ONE): "targets:read",
    ("PUT", ONE): "targets:write",
    ("DELETE", ONE): "targets:write",
    **{("POST", f"{ONE}/{switch}"): "targets:write" for switch in SWITCHES},
    ("POST", ONE + "/test"): "targets:write",
    ("POST", ONE + "/rollback"): "targets:write",
    ("GET", ONE + "/revisions"): "targets:read",
    ("GET", ONE + "/revisions/{number}"): "targets:read",
    ("GET", ONE + "/revisions/{number}/diff/{other}"): "targets:read",
    ("GET", REVISIONS): "targets:read",
    ("POST", REVISIONS + "/rollback"): "targets:write",
    ("POST", "/api/v1/rules:test"): "targets:read",
    ("POST", "/api/v1/rules:backtest"): "events:read",
    ("POST", "/api/v1/events:explain"): "targets:read",
    ("GET", "/api/v1/schemas"): "targets:read",
    ("GET", SCHEMA): "targets:read",
    ("PUT", SCHEMA): "targets:write",
    ("DELETE", SCHEMA): "targets:write",
    ("GET", DEAD): "events:read",
    ("GET", DEAD + "/{id}"): "events:read",
    ("DELETE", DEAD + "/{id}"): "targets:write",
    ("POST", DEAD + "/{id}/redrive"): "targets:write",
    ("POST", DEAD + "/redrive"): "targets:write",
    ("POST", DEAD + "/discard"): "targets:write",
    ("GET", REJECTED): "events:read",
    ("GET", REJECTED + "/{id}"): "events:read",
    ("DELETE", REJECTED + "/{id}"): "targets:write",
    ("POST", REJECTED + "/{id}/resubmit"): "targets:write",
    ("POST", REJECTED + "/resubmit"): "targets:write",
    ("POST", KEYS): "admin",
    ("GET", KEYS): "admin",
    ("GET", KEYS + "/{id}"): "admin",
    ("DELETE", KEYS + "/{id}"): "admin",
    ("POST", KEYS + "/{id}/rotate"): "admin",
    ("POST", "/api/v1/secrets/rotate"): "admin",
    ("GET", "/api/v1/audit/log"): "admin",
    ("GET", "/api/v1/stats"): "targets:read",
}
OPEN = frozenset((("GET", "/openapi.json"), ("GET", "/docs")))
"""What everybody may read: how the API works, nothing of what is in it. A browser that opens a page can send no key."""


def guard(auth: Authentication, routes: Sequence[web.RouteDef]) -> list[web.RouteDef]:
    """The routes, each open only to callers who may use it.

    Raises:
        KeyError: a route is not in the table.
    """
    return [
        route
        if (route.method, route.path) in OPEN
        else web.RouteDef(route.method, route.path, _guarded(auth, SCOPES[route.method, route.path], route.handler), route.kwargs)
        for route in routes
    ]


def _guarded(auth: Authentication, scope: Scope, handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            headers = request.headers.items()
            address = auth.origin.of(request.remote or "", headers)
            caller = auth.caller(headers, address, names(request.transport))
            auth.permit(caller, scope, address)
        except TasError as error:
            return failure(error, request, request_id(request))
        request[CALLER], request[ADDRESS] = caller, address
        return await handler(request)

    return handle
