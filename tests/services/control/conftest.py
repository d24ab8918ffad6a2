"""A running control service for the tests of its parts."""

from collections.abc import AsyncIterator

import pytest

from tests.nats_server import NatsServer
from tests.services.control.rig import ADMIN, Rig, running, until


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    """The service, its streams made, its janitor busy."""
    async with running(nats.url) as found:
        await until(lambda: ready(found))
        yield found


@pytest.fixture
async def locked(nats: NatsServer) -> AsyncIterator[Rig]:
    """The same, asking for keys."""
    async with running(nats.url, auth="auto", admin_key=ADMIN) as found:
        await until(lambda: ready(found))
        yield found


async def ready(rig: Rig) -> bool:
    checks = rig.ops.readiness()[1]
    return checks["streams"]["status"] == "up"
