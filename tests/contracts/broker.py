"""What a broker must do for ``Publisher`` and ``Puller``: run on the real one and on the one in memory.

A test module makes a class of ``BrokerContract`` with a fixture ``bench``.
"""

import asyncio
from typing import Any, Protocol

import msgspec
import pytest

from tas_mcp.broker import Connection, JetStream, Message, Publisher, Pulled, Puller
from tas_mcp.errors import Rejected, TasError, Unavailable
from tas_mcp.messages import PubAck
from tests.shared.rig import until


class Link(Protocol):
    """A broker that can be taken away."""

    @property
    def connection(self) -> Connection: ...

    async def away(self) -> None: ...

    async def back(self) -> None: ...


class Bench:
    """A broker with the stream ``S`` and the consumer ``c``."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.connection = link.connection
        self.jetstream = JetStream(self.connection)

    async def stream(self, **changes: Any) -> None:
        config = {"name": "S", "subjects": ["S.>"], "storage": "file", "discard": "new", **changes}
        await self.jetstream.call("STREAM.CREATE.S", config)

    async def consumer(self, ack_wait: float = 30.0) -> None:
        config = {"durable_name": "c", "ack_policy": "explicit", "ack_wait": int(ack_wait * 1e9)}
        await self.jetstream.ensure_consumer("S", config)

    async def fill(self, *bodies: bytes) -> None:
        async with Publisher(self.connection).running() as publisher:
            for body in bodies:
                await publisher.store("S.x", body)

    async def stored(self) -> int:
        info = await self.jetstream.stream_info("S")
        return int(info["state"]["messages"])

    async def counts(self) -> tuple[int, int, int]:
        """Handed out and not acked; not handed out yet; requests that wait."""
        info = await self.jetstream.consumer_info("S", "c")
        return info["num_ack_pending"], info["num_pending"], info["num_waiting"]

    def puller(self, found: list[Pulled], limit: int = 10) -> Puller:
        return Puller(self.connection, "S", "c", found.append, limit=limit)


def place(seq: int, duplicate: bool = False) -> tuple[str, int, bool]:
    return "S", seq, duplicate


def at(answer: PubAck | TasError) -> tuple[str, int, bool]:
    """Where a publish was stored."""
    assert isinstance(answer, PubAck)
    return answer.stream, answer.seq, answer.duplicate


def bodies(found: list[Pulled]) -> list[bytes]:
    return [pulled.data for pulled in found]


class BrokerContract:
    """The tests. A subclass gives the fixture ``bench``, without stream or consumer."""

    # Publishing.

    async def test_each_publish_is_answered_with_its_place(self, bench: Bench) -> None:
        await bench.stream()
        async with Publisher(bench.connection).running() as publisher:
            found = [at(await publisher.store("S.a", b"%d" % number)) for number in range(3)]
        assert found == [place(1), place(2), place(3)]
        assert await bench.stored() == 3

    async def test_a_message_id_is_stored_once(self, bench: Bench) -> None:
        await bench.stream()
        async with Publisher(bench.connection).running() as publisher:
            assert at(await publisher.store("S.a", b"1", msg_id="one")) == place(1)
            assert at(await publisher.store("S.a", b"2", msg_id="two")) == place(2)
            assert at(await publisher.store("S.b", b"3", msg_id="one")) == place(1, duplicate=True)
            assert at(await publisher.store("S.a", b"1")) == place(3)
        assert await bench.stored() == 3

    async def test_without_a_stream_nothing_is_stored(self, bench: Bench) -> None:
        async with Publisher(bench.connection).running() as publisher:
            with pytest.raises(Unavailable, match="no stream takes this subject"):
                await publisher.store("S.a", b"1")

    async def test_a_full_stream_refuses_for_now(self, bench: Bench) -> None:
        await bench.stream(max_msgs=1)
        async with Publisher(bench.connection).running() as publisher:
            await publisher.store("S.a", b"1", msg_id="one")
            with pytest.raises(Unavailable, match="maximum messages exceeded") as caught:
                await publisher.store("S.a", b"2", msg_id="two")
            assert caught.value.retry_after == 5.0
            assert (await publisher.store("S.a", b"1", msg_id="one")).duplicate

    async def test_too_large_is_refused_before_it_is_sent(self, bench: Bench) -> None:
        await bench.stream()
        most = bench.connection.max_payload
        async with Publisher(bench.connection).running() as publisher:
            with pytest.raises(Rejected) as caught:
                await publisher.store("S.a", b"x" * most)
            assert caught.value.code == "TOO_LARGE"
            assert at(await publisher.store("S.a", b"x" * (most - 512))) == place(1)
            assert publisher.pending == 0

    async def test_the_window_bounds_what_waits(self, bench: Bench) -> None:
        await bench.stream()
        settled: list[PubAck | TasError] = []
        async with Publisher(bench.connection, window=4).running() as publisher:
            for _ in range(4):
                publisher.publish("S.a", b"1", settled.append)
            with pytest.raises(Unavailable, match="4 publishes"):
                publisher.publish("S.a", b"5", settled.append)
            await publisher.room()
            await until(lambda: len(settled) == 4)
            await publisher.store("S.a", b"6")
        assert [at(answer) for answer in settled] == [place(seq) for seq in (1, 2, 3, 4)]

    async def test_the_window_bounds_bytes_but_takes_one_of_any_size(self, bench: Bench) -> None:
        await bench.stream()
        settled: list[PubAck | TasError] = []
        async with Publisher(bench.connection, window_bytes=10).running() as publisher:
            publisher.publish("S.a", b"x" * 50, settled.append)
            with pytest.raises(Unavailable, match="50 bytes"):
                publisher.publish("S.a", b"x", settled.append)
            await until(lambda: settled)
            await publisher.store("S.a", b"x")

    async def test_leaving_waits_for_what_is_pending(self, bench: Bench) -> None:
        await bench.stream()
        settled: list[PubAck | TasError] = []
        async with Publisher(bench.connection).running() as publisher:
            for _ in range(100):
                publisher.publish("S.a", b"1", settled.append)
        assert [at(answer) for answer in settled] == [place(seq) for seq in range(1, 101)]

    async def test_an_outage_settles_everything_once(self, bench: Bench) -> None:
        await bench.stream()
        settled: list[PubAck | TasError] = []
        async with Publisher(bench.connection).running() as publisher:
            for number in range(50):
                publisher.publish("S.a", b"1", settled.append, msg_id=f"m{number}")
            await bench.link.away()
            await until(lambda: not bench.connection.connected)
            assert len(settled) == 50
            assert all(isinstance(answer, PubAck | Unavailable) for answer in settled)
            with pytest.raises(Unavailable, match="the broker is away"):
                publisher.publish("S.a", b"1", settled.append)
            await bench.link.back()
            await until(lambda: bench.connection.connected)
            for number in range(50):
                await publisher.store("S.a", b"1", msg_id=f"m{number}")
        assert await bench.stored() == 50
        assert len(settled) == 50

    # Pulling.

    async def test_messages_come_in_order_with_all_they_have(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer()
        found: list[Pulled] = []
        async with Publisher(bench.connection).running() as publisher:
            await publisher.store("S.a", b"before", headers={"X-Kind": "test"})
            async with bench.puller(found).running() as puller:
                await until(lambda: len(found) == 1)
                assert puller.trouble == ""
                await publisher.store("S.b.c", b"after")
                await until(lambda: len(found) == 2)
                assert [(each.subject, each.data, each.seq, each.delivered) for each in found] == [
                    ("S.a", b"before", 1, 1),
                    ("S.b.c", b"after", 2, 1),
                ]
                assert found[0].headers == {"X-Kind": "test"}
                assert puller.held == 2
                for pulled in found:
                    pulled.ack()
                assert puller.held == 0
        assert await until_counts(bench, 0, 0)

    async def test_no_more_than_the_limit_is_held(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer()
        await bench.fill(*(b"%d" % number for number in range(30)))
        found: list[Pulled] = []
        most = 0
        async with bench.puller(found, limit=4).running() as puller:
            for number in range(30):
                await until(lambda number=number: len(found) > number)  # type: ignore[misc]
                most = max(most, puller.held)
                found[number].ack()
        assert bodies(found) == [b"%d" % number for number in range(30)]
        assert most == 4

    async def test_a_nak_brings_it_back(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer()
        await bench.fill(b"1")
        found: list[Pulled] = []
        async with bench.puller(found).running():
            await until(lambda: len(found) == 1)
            found[0].nak()
            await until(lambda: len(found) == 2)
            assert [(each.seq, each.delivered) for each in found] == [(1, 1), (1, 2)]
            found[1].ack()
        assert await until_counts(bench, 0, 0)

    async def test_what_is_held_long_is_not_handed_out_again(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer(ack_wait=1.5)
        await bench.fill(b"slow")
        found: list[Pulled] = []
        async with bench.puller(found).running():
            await until(lambda: len(found) == 1)
            address = found[0].reply
            await asyncio.sleep(3.2)  # more than twice ack_wait: the very time that is tested
            assert found[0].reply == address, "it was handed out again"
            found[0].ack()
            assert await until_counts(bench, 0, 0)
        assert len(found) == 1

    async def test_what_a_dead_puller_held_goes_to_another(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer(ack_wait=0.3)
        await bench.fill(b"1")
        first: list[Message] = []
        async with bench.connection.subscribed("_INBOX.dead.1", first.append):
            bench.connection.send("$JS.API.CONSUMER.MSG.NEXT.S.c", request(1, 5.0), "_INBOX.dead.1")
            await until(lambda: first)
        found: list[Pulled] = []
        async with bench.puller(found).running():
            await until(lambda: len(found) == 1)
            assert found[0].delivered == 2
            found[0].ack()

    async def test_pause_and_resume(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer()
        await bench.fill(b"1", b"2")
        found: list[Pulled] = []
        async with bench.puller(found, limit=1).running() as puller:
            await until(lambda: len(found) == 1)
            puller.pause()
            found[0].ack()
            assert await until_counts(bench, 0, 1)
            assert (await bench.counts())[2] == 0, "it asked for more"
            assert len(found) == 1
            puller.resume()
            await until(lambda: len(found) == 2)
            found[1].ack()

    async def test_a_larger_limit_takes_effect_at_once(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer()
        await bench.fill(b"1", b"2", b"3")
        found: list[Pulled] = []
        async with bench.puller(found, limit=1).running() as puller:
            await until(lambda: len(found) == 1)
            puller.resize(3)
            await until(lambda: len(found) == 3)
            for pulled in found:
                pulled.ack()

    async def test_leaving_waits_for_what_is_held(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer()
        await bench.fill(b"1")
        found: list[Pulled] = []
        entered = asyncio.Event()

        async def pull() -> None:
            async with bench.puller(found).running():
                await until(lambda: found)
                entered.set()

        task = asyncio.create_task(pull())
        await entered.wait()
        await until_counts(bench, 1, 0, waiting=0)
        assert not task.done()
        found[0].ack()
        await task
        assert await until_counts(bench, 0, 0)

    async def test_what_was_asked_for_is_not_lost_by_leaving(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer()
        first: list[Pulled] = []
        second: list[Pulled] = []
        async with bench.puller(first).running() as puller:
            await until(lambda: not puller.trouble)
        await bench.fill(b"1", b"2")
        async with bench.puller(second).running():
            await until(lambda: len(second) == 2)
            for pulled in second:
                pulled.ack()
        assert first == []

    async def test_a_missing_consumer_is_told_and_waited_for(self, bench: Bench) -> None:
        await bench.stream()
        await bench.fill(b"1")
        found: list[Pulled] = []
        async with bench.puller(found).running() as puller:
            await until(lambda: "consumer not found" in puller.trouble)
            await bench.consumer()
            await until(lambda: found)
            assert puller.trouble == ""
            found[0].ack()

    async def test_a_consumer_deleted_and_made_anew(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer()
        await bench.fill(b"1")
        found: list[Pulled] = []
        async with bench.puller(found).running() as puller:
            await until(lambda: len(found) == 1)
            found[0].ack()
            assert await until_counts(bench, 0, 0)
            await bench.jetstream.delete_consumer("S", "c")
            await until(lambda: puller.trouble)
            await bench.consumer()
            await bench.fill(b"2")
            await until(lambda: b"2" in bodies(found))
            assert puller.trouble == ""
            for pulled in found[1:]:
                pulled.ack()

    async def test_an_outage_loses_nothing_and_owed_acks_are_sent(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer()
        await bench.fill(b"1", b"2")
        found: list[Pulled] = []
        async with bench.puller(found).running():
            await until(lambda: len(found) == 2)
            await bench.link.away()
            await until(lambda: not bench.connection.connected)
            found[0].ack()
            await bench.link.back()
            await until(lambda: bench.connection.connected)
            assert await until_counts(bench, 1, 0)
            await bench.fill(b"3")
            await until(lambda: len(found) == 3)
            for pulled in found[1:]:
                pulled.ack()
            assert await until_counts(bench, 0, 0)
        assert bodies(found) == [b"1", b"2", b"3"]

    async def test_the_statuses_of_a_pull(self, bench: Bench) -> None:
        await bench.stream()
        await bench.consumer()
        await bench.fill(b"1")
        found: list[Message] = []
        async with bench.connection.subscribed("_INBOX.raw.*", found.append):
            bench.connection.send("$JS.API.CONSUMER.MSG.NEXT.S.c", request(3, 0.5, 0.2), "_INBOX.raw.1")
            await until(lambda: found and found[-1].status == "408")
            assert (found[0].data, found[0].status) == (b"1", "")
            assert {each.status for each in found[1:-1]} == {"100"}
            assert found[-1].headers["Nats-Pending-Messages"] == "2"
            bench.connection.send("$JS.API.CONSUMER.MSG.NEXT.S.c", request(1, 0.5, 0.5), "_INBOX.raw.2")
            await until(lambda: found[-1].status == "400")
            bench.connection.send("$JS.API.CONSUMER.MSG.NEXT.S.missing", request(1, 0.5), "_INBOX.raw.3")
            await until(lambda: found[-1].status == "503")


def request(batch: int, expires: float, heartbeat: float = 0.0) -> bytes:
    return msgspec.json.encode({"batch": batch, "expires": int(expires * 1e9), "idle_heartbeat": int(heartbeat * 1e9)})


async def until_counts(bench: Bench, unacked: int, pending: int, *, waiting: int | None = None) -> bool:
    """Wait until the consumer has come to these numbers."""

    async def there() -> bool:
        found = await bench.counts()
        return found[:2] == (unacked, pending) and waiting in (None, found[2])

    return bool(await until(there))
