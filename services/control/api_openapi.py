"""What the API says of itself: ``/openapi.json``."""

from aiohttp import web

from services.control import openapi
from tas_mcp.http import answering, json_response

HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}


def routes() -> list[web.RouteDef]:
    document = openapi.document()

    async def describe(_: web.Request) -> web.StreamResponse:
        return json_response(document, headers=HEADERS)

    return [web.get("/openapi.json", answering(describe))]
