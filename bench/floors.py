"""The floors: what the bare library does, with nothing of ours. ``python -m bench.floors handler PORT`` serves an aiohttp handler
that decodes the same event and answers, ``websocket PORT`` the same over WebSockets; ``collector PORT`` takes traces; ``client
URL SECONDS CONNECTIONS`` posts one body again and again with aiohttp's client.
"""

import asyncio
import json
import sys
import time

import aiohttp
import msgspec
import uvloop
from aiohttp import WSMsgType, web

from tas_mcp.submission import Submission

BODY = (
    b'{"event_id":"x","event_type":"user.created","source":"s","timestamp":1,"data":"{\\"user\\":{\\"id\\":\\"usr-456\\",'
    b'\\"name\\":\\"Ada Lovelace\\"},\\"amount\\":123.45,\\"items\\":[{\\"sku\\":\\"x-1\\",\\"n\\":2}]}","metadata":{}}'
)


class Frame(msgspec.Struct):
    """An event frame of a WebSocket."""

    type: str
    id: int
    event: Submission


async def handler(port: int) -> None:
    decode, encode = msgspec.json.Decoder(Submission).decode, msgspec.json.Encoder().encode

    async def answer(request: web.Request) -> web.Response:
        event = decode(await request.read())
        return web.Response(body=encode({"event_id": event.event_id, "status": "accepted"}), content_type="application/json")

    app = web.Application()
    app.router.add_post("/api/v1/events", answer)
    await _serve(app, port)


async def websocket(port: int) -> None:
    decode, encode = msgspec.json.Decoder(Frame).decode, msgspec.json.Encoder().encode

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.WebSocketResponse(compress=False, decode_text=False)
        await response.prepare(request)
        async for message in response:
            frame = decode(message.data)
            ack = {"type": "ack", "id": frame.id, "results": [{"event_id": frame.event.event_id, "status": "accepted"}]}
            await response.send_frame(encode(ack), WSMsgType.TEXT)
        return response

    app = web.Application()
    app.router.add_get("/api/v1/events/ws", answer)
    await _serve(app, port)


async def collector(port: int) -> None:
    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"", content_type="application/x-protobuf")

    app = web.Application(client_max_size=16 << 20)
    app.router.add_post("/v1/traces", take)
    await _serve(app, port)


async def _serve(app: web.Application, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


async def client(url: str, seconds: float, connections: int) -> None:
    sent = 0
    end = time.perf_counter() + seconds
    headers = {"Content-Type": "application/json", "webhook-id": "evt_1", "webhook-timestamp": "1700000000"}
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def loop() -> None:
            nonlocal sent
            while time.perf_counter() < end:
                async with session.post(url, data=BODY, headers=headers, allow_redirects=False) as response:
                    await response.read()
                    sent += 1

        await asyncio.gather(*(loop() for _ in range(connections)))
    print(json.dumps({"rate": sent / seconds}))


if __name__ == "__main__":
    if sys.argv[1] == "handler":
        uvloop.run(handler(int(sys.argv[2])))
    elif sys.argv[1] == "websocket":
        uvloop.run(websocket(int(sys.argv[2])))
    elif sys.argv[1] == "collector":
        uvloop.run(collector(int(sys.argv[2])))
    else:
        uvloop.run(client(sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))
