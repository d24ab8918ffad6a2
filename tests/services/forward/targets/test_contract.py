"""The contract of target types, on each of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgspec
import pytest
from aiohttp import web

from tas_mcp.http import application, listening
from tests.contracts.target import TargetContract
from tests.services.forward.targets.grpc_server import GrpcServer, grpc_serving
from tests.shared.rig import until


class HttpDestination:
    """An aiohttp server that takes the ``tas`` format."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.seen: list[tuple[str, str]] = []

    def document(self, **config: Any) -> dict[str, Any]:
        return {"id": "t", "type": "http", "endpoint": f"http://127.0.0.1:{self.port}/", "config": config}

    def elsewhere(self, port: int) -> dict[str, Any]:
        return {**self.document(), "endpoint": f"http://127.0.0.1:{port}/"}

    async def take(self, request: web.Request) -> web.Response:
        if self.status < 300:
            body = msgspec.json.decode(await request.read())
            self.seen.append((body["event_id"], body["data"]))
        return web.Response(status=self.status)

    async def received(self, count: int) -> list[tuple[str, str]]:
        await until(lambda: len(self.seen) >= count)
        return self.seen

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        self.status = 422
        yield
        self.status = 200


class TestHttp(TargetContract):
    @pytest.fixture
    async def destination(self) -> AsyncIterator[HttpDestination]:
        found = HttpDestination()
        app = application([web.post("/", found.take)], 10_000_000)
        async with listening(app, "127.0.0.1", 0, what="X", drain_seconds=0.1) as found.port:
            yield found


class GrpcDestination:
    def __init__(self, server: GrpcServer) -> None:
        self._server = server
        self.port = server.port

    def document(self, **config: Any) -> dict[str, Any]:
        return {"id": "t", "type": "grpc", "endpoint": f"grpc://127.0.0.1:{self.port}", "config": config}

    def elsewhere(self, port: int) -> dict[str, Any]:
        return {**self.document(), "endpoint": f"grpc://127.0.0.1:{port}"}

    async def received(self, count: int) -> list[tuple[str, str]]:
        await until(lambda: len(self._server.seen) >= count)
        return [(each.event_id, each.data) for each in self._server.seen]

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        self._server.code = grpc.StatusCode.INVALID_ARGUMENT
        yield
        self._server.code = None


class TestGrpc(TargetContract):
    @pytest.fixture
    async def destination(self) -> AsyncIterator[GrpcDestination]:
        async with grpc_serving() as server:
            yield GrpcDestination(server)
