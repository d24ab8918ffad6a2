"""The contract of the broker, on the real one and on the one in memory."""

from collections.abc import AsyncIterator

import pytest

from tas_mcp.broker import Connection, puller
from tests.contracts.broker import Bench, BrokerContract
from tests.fakes import MemoryBroker
from tests.nats_server import NatsServer
from tests.shared.rig import linked


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puller, "LOOK_SECONDS", 0.1)


class RealLink:
    """A real server, killed and started again."""

    def __init__(self, server: NatsServer, connection: Connection) -> None:
        self._server = server
        self.connection = connection

    async def away(self) -> None:
        self._server.kill()

    async def back(self) -> None:
        self._server.start()


class TestMemory(BrokerContract):
    @pytest.fixture
    async def bench(self) -> Bench:
        return Bench(MemoryBroker())


class TestNats(BrokerContract):
    @pytest.fixture
    async def bench(self, nats: NatsServer) -> AsyncIterator[Bench]:
        async with linked(nats.url) as broker:
            yield Bench(RealLink(nats, broker.connection))
