"""Outcome records on their way: grouped, stored before anybody is told, never given up."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tas_mcp import outcomes as module
from tas_mcp import subjects
from tas_mcp.broker import JetStream, Publisher
from tas_mcp.messages import Attempted, Routed, RoutedTo
from tas_mcp.outcomes import GROUP_RECORDS, Outcomes
from tests.fakes import MemoryBroker
from tests.nats_server import NatsServer
from tests.shared.rig import Broker, linked, until

pytestmark = pytest.mark.usefixtures("_soon")
decode = msgspec.json.Decoder(list[Routed]).decode


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", (0.02,) * 4)


def routed(seq: int, text: str = "") -> Routed:
    return Routed(seq, f"e{seq}{text}", 1, 2.0, [RoutedTo("t", 1, "r")])


async def seqs(broker: Broker) -> list[list[int]]:
    """The records of each stored message."""
    return [[record.event_seq for record in decode(message.data)] for message in await broker.messages(subjects.OUTCOMES)]


async def test_records_of_a_moment_make_one_message(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.lay_out()
        told: list[int] = []
        async with Outcomes(broker.publisher, subjects.ROUTED).running() as outcomes:
            for seq in (3, 1, 2):
                outcomes.record(routed(seq), lambda seq=seq: told.append(seq))  # type: ignore[misc]
            assert told == []
            await until(lambda: len(told) == 3)
            outcomes.record(routed(4), lambda: told.append(4))
        assert told == [3, 1, 2, 4], "leaving waits"
        assert await seqs(broker) == [[3, 1, 2], [4]]
        stored = (await broker.messages(subjects.OUTCOMES))[0]
        assert stored.subject == subjects.ROUTED
        assert decode(stored.data)[0] == routed(3)


async def test_a_group_has_a_largest_size(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.lay_out()
        async with Outcomes(broker.publisher, subjects.ROUTED).running() as outcomes:
            for seq in range(GROUP_RECORDS + 1):
                outcomes.record(routed(seq), lambda: None)
        assert [len(group) for group in await seqs(broker)] == [GROUP_RECORDS, 1]


async def test_attempts_are_told_like_decisions(nats: NatsServer) -> None:
    attempted = Attempted(1, "e1", 1, "t", 2, 1, "retrying", 500, 1.5, 2.0, "no")
    async with linked(nats.url) as broker:
        await broker.lay_out()
        async with Outcomes(broker.publisher, subjects.ATTEMPTS).running() as outcomes:
            outcomes.record(attempted, lambda: None)
        stored = await broker.messages(subjects.OUTCOMES)
        assert msgspec.json.decode(stored[0].data, type=list[Attempted]) == [attempted]


async def test_nobody_is_told_before_it_is_stored_and_over_an_outage_it_is_stored_once(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.lay_out()
        told: list[int] = []
        async with Outcomes(broker.publisher, subjects.ROUTED).running() as outcomes:
            outcomes.record(routed(1), lambda: told.append(1))
            await until(lambda: told)
            outcomes.record(routed(2), lambda: told.append(2))
            nats.kill()
            await until(lambda: not broker.connection.connected)
            outcomes.record(routed(3), lambda: told.append(3))
            await until(lambda: "outcomes cannot be stored" in outcomes.trouble)
            assert told in ([1], [1, 2]), "one that was not stored was told"
            nats.start()
            await until(lambda: {1, 2, 3} <= set(told))
            assert outcomes.trouble == ""
        assert sorted(told) == [1, 2, 3]
        assert sorted(await seqs(broker)) == [[1], [2], [3]]


async def test_an_ack_that_was_lost_does_not_store_it_twice() -> None:
    """The broker stores it, and is gone before it can say so."""
    memory = Deaf()
    jetstream = JetStream(memory.connection)
    await jetstream.call("STREAM.CREATE.tas", {})
    told: list[int] = []
    async with Publisher(memory.connection, deadline=0.2).running() as publisher:
        async with Outcomes(publisher, subjects.ROUTED).running() as outcomes:
            memory.deaf = True
            outcomes.record(routed(1), lambda: told.append(1))

            async def stored() -> bool:
                return len(memory.published) >= 2

            await until(stored)
            assert told == []
            memory.deaf = False
            await until(lambda: told)
    assert len(set(memory.published)) == 1, "the message id changed"
    assert (await jetstream.stream_info("tas"))["state"]["messages"] == 1


async def test_what_is_too_large_for_one_message_is_stored_as_several() -> None:
    memory = MemoryBroker()
    memory.max_payload = 2048
    await JetStream(memory.connection).call("STREAM.CREATE.tas", {})
    told: list[int] = []
    async with Publisher(memory.connection).running() as publisher:
        async with asyncio.timeout(60):
            async with Outcomes(publisher, subjects.ROUTED).running() as outcomes:
                for seq in range(100):
                    outcomes.record(routed(seq, "x" * 50), lambda seq=seq: told.append(seq))  # type: ignore[misc]
    assert sorted(told) == list(range(100))
    assert outcomes.trouble == ""
    info = await JetStream(memory.connection).stream_info("tas")
    assert 100 * 70 / 1536 < info["state"]["messages"] < 100


class Deaf(MemoryBroker):
    """Takes publishes, and loses the answers while ``deaf``."""

    def __init__(self) -> None:
        super().__init__()
        self.deaf = False
        self.published: list[str] = []

    def send(self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        if headers:
            self.published.append(headers["Nats-Msg-Id"])
        super().send(subject, payload, reply, headers)

    def listener(self, inbox: str) -> Callable[..., Any] | None:
        return None if self.deaf else super().listener(inbox)


@pytest.mark.parametrize("count", [1, GROUP_RECORDS])
async def test_leaving_without_waiting_for_the_timer(count: int) -> None:
    memory = MemoryBroker()
    await JetStream(memory.connection).call("STREAM.CREATE.tas", {})
    told: list[int] = []
    async with Publisher(memory.connection).running() as publisher, Outcomes(publisher, subjects.ROUTED).running() as outcomes:
        for seq in range(count):
            outcomes.record(routed(seq), lambda seq=seq: told.append(seq))  # type: ignore[misc]
    assert told == list(range(count))
