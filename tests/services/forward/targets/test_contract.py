"""The contract of target types, on each of them."""

import base64
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import msgspec
import pytest
from aiohttp import web

from tas_mcp.http import application, listening
from tests.contracts.target import TargetContract
from tests.kafka_broker import ADDRESS, consumed, needs_kafka
from tests.nats_server import NatsServer
from tests.services.forward.targets.grpc_server import GrpcServer, grpc_serving
from tests.shared.rig import Broker, linked, until


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


class KafkaDestination:
    """A topic of its own on a real broker."""

    def __init__(self) -> None:
        self._host, _, port = ADDRESS.rpartition(":")
        self.port = int(port)
        self._topic = f"contract-{uuid.uuid4()}"
        self._refusing = False

    def document(self, **config: Any) -> dict[str, Any]:
        topic = "__consumer_offsets" if self._refusing else self._topic
        return {**self.elsewhere(self.port), "config": {"topic": topic, "timeout": "10s", **config}}

    def elsewhere(self, port: int) -> dict[str, Any]:
        config = {"topic": self._topic, "timeout": "4s"}
        return {"id": "t", "type": "kafka", "endpoint": f"kafka://{self._host}:{port}", "config": config}

    async def received(self, count: int) -> list[tuple[str, str]]:
        bodies = [msgspec.json.decode(record.value) for record in await consumed(ADDRESS, self._topic, count)]
        return [(body["event_id"], body["data"]) for body in bodies]

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        self._refusing = True
        yield
        self._refusing = False


@pytest.mark.real
@needs_kafka
class TestKafka(TargetContract):
    @pytest.fixture
    def destination(self) -> KafkaDestination:
        return KafkaDestination()


class NatsDestination:
    """A stream on a server of its own."""

    def __init__(self, server: NatsServer, broker: Broker) -> None:
        self.port = server.port
        self._broker = broker

    def document(self, **config: Any) -> dict[str, Any]:
        return {**self.elsewhere(self.port), "config": {"subject": "S.orders", **config}}

    def elsewhere(self, port: int) -> dict[str, Any]:
        return {"id": "t", "type": "nats", "endpoint": f"nats://127.0.0.1:{port}", "config": {"subject": "S.orders"}}

    async def received(self, count: int) -> list[tuple[str, str]]:
        await until(lambda: self._broker.jetstream.count("S", "S.orders"))
        bodies = [msgspec.json.decode(message.data) for message in await self._broker.messages("S")]
        assert len(bodies) == count
        return [(body["event_id"], body["data"]) for body in bodies]

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        await self._broker.stream(max_msg_size=10)
        yield
        await self._broker.stream()


class TestNats(TargetContract):
    @pytest.fixture
    async def destination(self, nats: NatsServer) -> AsyncIterator[NatsDestination]:
        async with linked(nats.url) as broker:
            await broker.stream()
            yield NatsDestination(nats, broker)


class ArgoDestination(NatsDestination):
    """An EventBus."""

    def elsewhere(self, port: int) -> dict[str, Any]:
        config = {"event_source": "tas", "event_name": "orders"}
        return {"id": "t", "type": "argo-events", "endpoint": f"nats://127.0.0.1:{port}", "config": config}

    def document(self, **config: Any) -> dict[str, Any]:
        return self.elsewhere(self.port)

    async def received(self, count: int) -> list[tuple[str, str]]:
        await until(lambda: self._broker.jetstream.count("S", "default.tas.orders"))
        bodies = [msgspec.json.decode(message.data) for message in await self._broker.messages("S")]
        assert len(bodies) == count
        return [(body["eventid"], base64.b64decode(body["data_base64"]).decode()) for body in bodies]

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        await self._broker.stream(subjects=["default.*.*"], max_msg_size=10)
        yield
        await self._broker.stream(subjects=["default.*.*"])


class TestArgo(TargetContract):
    @pytest.fixture
    async def destination(self, nats: NatsServer) -> AsyncIterator[ArgoDestination]:
        async with linked(nats.url) as broker:
            await broker.stream(subjects=["default.*.*"])
            yield ArgoDestination(nats, broker)
