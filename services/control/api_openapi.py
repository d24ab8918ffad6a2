"""What the API says of itself: ``/openapi.json``, and ``/docs`` for people."""

from aiohttp import web

from services.control import openapi
from tas_mcp.http import answering, json_response

HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}


def routes() -> list[web.RouteDef]:
    document, page = openapi.document(), openapi.page()

    async def describe(_: web.Request) -> web.StreamResponse:
        return json_response(document, headers=HEADERS)

    async def show(_: web.Request) -> web.StreamResponse:
        headers = {**HEADERS, "Content-Security-Policy": page.policy, "Referrer-Policy": "no-referrer"}
        return web.Response(body=page.html, content_type="text/html", charset="utf-8", headers=headers)

    return [web.get("/openapi.json", answering(describe)), web.get("/docs", answering(show))]
