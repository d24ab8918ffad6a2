"""What only a real server does: many messages, a full store, kill -9, a server that stands still, schedules."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvloop

from tas_mcp import subjects
from tas_mcp.broker import Connection, Pulled, Puller
from tas_mcp.errors import Rejected, TasError, Unavailable
from tas_mcp.messages import PubAck
from tests.nats_server import NatsServer
from tests.ports import free_port
from tests.shared.rig import POLL_SECONDS, linked, until


async def test_five_thousand_publishes_all_settle_in_order(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.stream()
        settled: list[PubAck | TasError] = []
        for number in range(5000):
            await broker.publisher.room()
            broker.publisher.publish("S.a", b"%d" % number, settled.append, msg_id=f"m{number}")
        await until(lambda: len(settled) == 5000)
        assert [answer.seq for answer in settled if isinstance(answer, PubAck)] == list(range(1, 5001))
        again = [await broker.publisher.store("S.a", b"x", msg_id=f"m{number}") for number in (0, 4999)]
        assert [(answer.seq, answer.duplicate) for answer in again] == [(1, True), (5000, True)]
        assert (await broker.jetstream.stream_info("S"))["state"]["messages"] == 5000


async def test_who_waits_for_room_is_refused_neither_for_number_nor_for_size(nats: NatsServer) -> None:
    async with linked(nats.url, window=10, window_bytes=50_000) as broker:
        await broker.stream()
        settled: list[PubAck | TasError] = []
        for size in [20_000] * 50 + [10] * 50:
            await broker.publisher.room()
            broker.publisher.publish("S.a", b"x" * size, settled.append)
        await until(lambda: len(settled) == 100)
        assert all(isinstance(answer, PubAck) for answer in settled)


async def test_a_full_stream_says_why(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.stream(max_bytes=1000, discard="new")
        await broker.publisher.store("S.a", b"x" * 600)
        with pytest.raises(Unavailable, match="maximum bytes exceeded") as caught:
            await broker.publisher.store("S.a", b"x" * 600)
        assert caught.value.retry_after == 5.0
        await broker.jetstream.purge("S")
        await broker.publisher.store("S.a", b"x" * 600)


async def test_larger_than_the_stream_takes_is_refused_for_good(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.stream(max_msg_size=100)
        with pytest.raises(Rejected, match="message size exceeds maximum"):
            await broker.publisher.store("S.a", b"x" * 101)


async def test_larger_than_the_server_takes_does_not_cost_the_link(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.stream()
        losses: list[bool] = []
        with broker.connection.watched(down=lambda: losses.append(True)):
            for size in (0, 511, -1, -511):
                with pytest.raises(Rejected, match="the broker takes"):
                    await broker.publisher.store("S.a", b"x" * (broker.connection.max_payload - size))
            ack = await broker.publisher.store("S.a", b"x" * (broker.connection.max_payload - 512), msg_id="m" * 300)
        assert (ack.seq, losses) == (1, [])


async def test_what_is_pending_when_the_server_is_killed(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.stream()
        await broker.publisher.store("S.a", b"0")
        settled: list[PubAck | TasError] = []
        nats.pause()
        for number in range(100):
            broker.publisher.publish("S.a", b"1", settled.append, msg_id=f"m{number}")
        await asyncio.sleep(0)
        assert broker.publisher.pending == 100
        nats.kill()
        await until(lambda: settled)
        assert len(settled) == 100
        assert {str(answer) for answer in settled} == {"the connection to the broker was lost before its ack came"}
        assert {type(answer) for answer in settled} == {Unavailable}
        began = time.monotonic()
        with pytest.raises(Unavailable, match="the broker is away"):
            broker.publisher.publish("S.a", b"2", settled.append)
        with pytest.raises(Unavailable, match="the broker is away"):
            await broker.connection.request("S.a")
        assert time.monotonic() - began < 1, "it waited"
        nats.start()
        await until(lambda: broker.connection.connected)
        for number in range(100):
            await broker.publisher.store("S.a", b"1", msg_id=f"m{number}")
        assert (await broker.jetstream.stream_info("S"))["state"]["messages"] == 101
        assert len(settled) == 100


async def test_a_request_in_flight_fails_at_once_when_the_link_is_lost(nats: NatsServer) -> None:
    async with linked(nats.url) as broker, broker.connection.subscribed("quiet", lambda _: None):
        asking = asyncio.create_task(broker.connection.request("quiet", timeout=30.0))
        await broker.connection.flush()
        nats.kill()
        with pytest.raises(Unavailable, match="lost before the answer"):
            await asyncio.wait_for(asking, 15)
        nats.start()
        await until(lambda: broker.connection.connected)
        with pytest.raises(Unavailable, match="nobody answers"):
            await broker.connection.request("nothing.here")


async def test_a_direct_get_in_flight_fails_at_once_too(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.stream()
        nats.pause()
        counting = asyncio.create_task(broker.jetstream.count("S", "S.>"))
        await asyncio.sleep(0)
        nats.kill()
        with pytest.raises(Unavailable, match="connection to the broker was lost"):
            await asyncio.wait_for(counting, 60)


async def test_a_server_that_stands_still_is_noticed(nats: NatsServer) -> None:
    """The socket stays open; only the ping tells."""
    async with linked(nats.url) as broker:
        await broker.stream()
        settled: list[PubAck | TasError] = []
        nats.pause()
        try:
            began = time.monotonic()
            broker.publisher.publish("S.a", b"1", settled.append, msg_id="one")
            await until(lambda: not broker.connection.connected)
            assert time.monotonic() - began < 30
            assert isinstance(settled[0], Unavailable)
            assert "no answer to a ping" in broker.connection.trouble
        finally:
            nats.resume()
        await until(lambda: broker.connection.connected)
        await broker.publisher.store("S.a", b"1", msg_id="one")
        assert (await broker.jetstream.stream_info("S"))["state"]["messages"] == 1


async def test_nothing_is_lost_over_kills_and_a_consumer_made_anew(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.stream()
        await broker.consumer()
        handled: dict[bytes, int] = {}

        def handle(pulled: Pulled) -> None:
            handled[pulled.data] = handled.get(pulled.data, 0) + 1
            pulled.ack()

        async def publish(start: int) -> None:
            for number in range(start, start + 300):

                async def stored(number: int = number) -> PubAck:
                    return await broker.publisher.store("S.a", b"%d" % number, msg_id=f"m{number}")

                await until(stored)

        async with Puller(broker.connection, "S", "c", handle, limit=50).running() as puller:
            for start in (0, 300):
                publishing = asyncio.create_task(publish(start))
                await until(lambda start=start: len(handled) > start + 100)  # type: ignore[misc]
                nats.restart()
                await publishing
            await until(lambda: len(handled) == 600)
            await broker.jetstream.delete_consumer("S", "c")
            await until(lambda: puller.trouble)
            assert "c" in puller.trouble
            await publish(600)
            await broker.consumer()
            await until(lambda: len(handled) == 900)
            assert puller.trouble == ""

        async def all_acked() -> bool:
            return await broker.unacked("S", "c") == (0, 0)

        await until(all_acked)
    assert set(handled) == {b"%d" % number for number in range(900)}


async def test_leaving_gives_back_what_is_on_its_way(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.stream()
        await broker.consumer(ack_wait=60 * 10**9)
        for number in range(1000):
            broker.publisher.publish("S.a", b"%d" % number, lambda _: None)
        await until(lambda: not broker.publisher.pending)
        first: list[Pulled] = []
        handled: set[int] = set()
        started = asyncio.Event()

        def handle(pulled: Pulled) -> None:
            first.append(pulled)
            started.set()

        async def pull() -> None:
            async with Puller(broker.connection, "S", "c", handle, limit=1000).running():
                await started.wait()

        pulling = asyncio.create_task(pull())
        await started.wait()

        def finished() -> bool:
            while first:
                handled.add(first[0].seq)
                first.pop(0).ack()
            return pulling.done()

        await until(finished)

        def handle_rest(pulled: Pulled) -> None:
            handled.add(pulled.seq)
            pulled.ack()

        async with Puller(broker.connection, "S", "c", handle_rest, limit=1000).running():
            await until(lambda: len(handled) == 1000)

            async def all_acked() -> bool:
                return await broker.unacked("S", "c") == (0, 0)

            await until(all_acked)


async def test_a_parked_message_comes_back(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.lay_out()
        await broker.open_lane("a b")
        at = datetime.fromtimestamp(time.time() + 1, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        headers = {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": subjects.deliveries("a b")}
        await broker.publisher.store(subjects.retries("a b", 7), b"parked", headers=headers)
        assert await broker.jetstream.count(subjects.DELIVERIES, subjects.all_retries("a b")) == 1
        found: list[Pulled] = []
        lane = subjects.forward_consumer("a b")
        async with Puller(broker.connection, subjects.DELIVERIES, lane, found.append, limit=10).running():
            assert found == []
            await until(lambda: found)
            assert (found[0].data, found[0].delivered, found[0].subject) == (b"parked", 1, subjects.deliveries("a b"))
            assert await broker.jetstream.count(subjects.DELIVERIES, subjects.all_retries("a b")) == 0
            found[0].ack()


def test_leaving_never_hangs_while_there_is_no_server() -> None:
    """Python 3.11's wait_for loses cancellations that come together with a result: nats-py's connecting was never ended."""

    async def main() -> None:
        async with asyncio.timeout(60):
            for number in range(300):
                async with Connection(["nats://127.0.0.1:1"], "test").running():
                    await asyncio.sleep(number % 50 * 0.00005)  # when a connect ends: about 1 ms

    uvloop.run(main())


async def test_a_cancellation_that_meets_the_answer_to_a_ping_is_not_lost(nats: NatsServer) -> None:
    """As when a task is ended that this moment gives up a subscription."""
    async with linked(nats.url) as broker:

        async def give_up() -> None:
            async with broker.connection.subscribed("x", lambda _: None):
                pass
            await asyncio.Event().wait()

        client = broker.connection._client
        assert client is not None
        answered = client._process_pong
        task = asyncio.create_task(give_up())

        async def answer_and_cancel() -> None:
            await answered()
            client._process_pong = answered  # type: ignore[method-assign]
            task.cancel()

        client._process_pong = answer_and_cancel  # type: ignore[method-assign]
        try:
            await asyncio.wait((task,), timeout=POLL_SECONDS)
            assert task.cancelled()
        finally:
            task.cancel()


async def test_an_ack_that_is_lost_with_the_server_is_sent_again(nats: NatsServer) -> None:
    """The server stands still, so that it cannot read the ack, and is killed."""
    async with linked(nats.url) as broker:
        await broker.stream()
        await broker.consumer()
        await broker.publisher.store("S.a", b"x")
        taken: list[Pulled] = []
        async with Puller(broker.connection, "S", "c", taken.append, limit=10).running():
            await until(lambda: taken)
            nats.pause()
            taken[0].ack()
            await asyncio.sleep(0)  # the write itself is the loop's next step
            nats.restart()

            async def acked() -> bool:
                return await broker.unacked("S", "c") == (0, 0)

            await until(acked)
        assert len(taken) == 1


async def test_one_who_stops_waiting_for_a_flush_does_not_harm_the_link(nats: NatsServer) -> None:
    lost: list[bool] = []
    async with linked(nats.url) as broker:
        with broker.connection.watched(down=lambda: lost.append(True)):
            nats.pause()
            waiting = asyncio.create_task(broker.connection.flush())
            for _ in range(5):  # it has sent its ping
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            nats.resume()
            await broker.jetstream.call("INFO")
            assert not lost


async def test_the_other_servers_of_a_cluster_are_told(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    servers = []
    for name, own, other in (("one", first, second), ("two", second, first)):
        folder = tmp_path / name
        folder.mkdir()
        cluster = f"name: c, listen: 127.0.0.1:{own}, routes: [nats://127.0.0.1:{other}]"
        servers.append(NatsServer(folder, f"server_name: {name}\ncluster {{ {cluster} }}"))
    one, two = (server.start() for server in servers)
    try:
        connection = Connection([one.url], "test")
        async with connection.running():
            await until(lambda: connection.peers == [two.url])
    finally:
        one.kill()
        two.kill()


async def test_a_message_cannot_claim_another_place_in_the_stream(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.stream()
        await broker.publisher.store("S.a", b"x", headers={"Nats-Sequence": "99", "X": "Nats-Sequence: 98"})
        await broker.publisher.store("S.a", b"y")
        found, _ = await broker.jetstream.page("S", "S.>", 1, 10)
        assert [message.sequence for message in found] == [1, 2]
