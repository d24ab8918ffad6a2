"""The ingest service, each test once for each of its lanes."""

from collections.abc import AsyncIterator

import pytest

from tests.nats_server import NatsServer
from tests.services.ingest.rig import Rig, serving


@pytest.fixture(params=["express", "aiohttp"])
def express(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "express")


@pytest.fixture
async def rig(nats: NatsServer, express: bool) -> AsyncIterator[Rig]:
    """The service, whose clients have half a second for a body."""
    async with serving(nats.url, express=express, body_seconds=2, max_batch_events=5, max_batch_bytes=100_000) as found:
        yield found
