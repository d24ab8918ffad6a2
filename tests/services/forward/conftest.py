"""A broker and a receiver for the tests of lanes."""

from collections.abc import AsyncIterator

import pytest

from tests.nats_server import NatsServer
from tests.services.forward.rig import Rig, prepared


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    async with prepared(nats.url) as found:
        yield found
