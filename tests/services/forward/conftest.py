"""A broker and a receiver for the tests of lanes."""

from collections.abc import AsyncIterator

import pytest

from tas_mcp import outcomes
from tas_mcp.broker import puller
from tests.nats_server import NatsServer
from tests.services.forward.rig import Rig, prepared


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in steps of a second, in shorter ones."""
    monkeypatch.setattr(puller, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(outcomes, "AGAIN_SECONDS", (0.02,) * 4)


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    async with prepared(nats.url) as found:
        yield found
