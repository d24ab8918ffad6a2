"""One running gateway, and one receiver, for all tests of a module; each test has targets and event types of its own."""

import itertools
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.e2e.receiver import Receiver, receiving
from tests.e2e.system import DEADLINE_SECONDS, System, running, until

_numbers = itertools.count(1)


class World(NamedTuple):
    """What a test of the flow needs."""

    system: System
    receiver: Receiver

    def target(self, name: str, **changes: Any) -> dict[str, Any]:
        """A webhook target for the events of type ``<name>.*``, at this receiver."""
        rules = [{"id": "own", "conditions": [{"field": "event_type", "operator": "starts_with", "value": name + "."}]}]
        return {"id": name, "type": "webhook", "endpoint": self.receiver.url(name), "rules": rules, **changes}

    async def sent(self, name: str, **changes: Any) -> str:
        """Send an event of type ``<name>.made``; its id, once it is accepted."""
        given = event(name, **changes)
        answer = await self.system.send(given)
        assert answer.status == 200, answer.body
        return str(given["event_id"])


def event(name: str, **changes: Any) -> dict[str, Any]:
    """An event with an id of its own."""
    number = next(_numbers)
    basis = {"event_id": f"{name}-{number}", "event_type": f"{name}.made", "source": "e2e", "timestamp": 1_700_000_000 + number}
    return {**basis, "data": {"n": number, "name": "Ada"}, "metadata": {"correlation_id": f"c-{number}"}, **changes}


async def arrived(world: World, name: str, *event_ids: str, seconds: float = DEADLINE_SECONDS) -> None:
    await until(lambda: world.receiver.has(name, *event_ids), seconds, f"delivery of {', '.join(event_ids[:5])} to {name}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with receiving() as receiver, running(tmp_path_factory.mktemp("system")) as system:
        yield World(system, receiver)
        assert system.violations == []
