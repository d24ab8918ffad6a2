"""The WebSocket, on a real broker and a real port; where the test decides when an event is stored, without a broker."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.nats_server import NatsServer
from tests.services.ingest.lanes import lane, turns
from tests.services.ingest.rig import GOOD, Rig, serving
from tests.shared.rig import until

WS = "/api/v1/events/ws"
SECONDS = 30.0


class Client:
    """A client that speaks JSON."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, **frame: Any) -> None:
        await self.socket.send_str(json.dumps(frame))

    async def hear(self) -> Any:
        """The next frame; of a close frame its code."""
        message = await self.socket.receive(SECONDS)
        if message.type is WSMsgType.TEXT:
            return json.loads(message.data)
        assert message.type is WSMsgType.CLOSE, message
        return message.data

    async def ask(self, **frame: Any) -> Any:
        await self.say(**frame)
        return await self.hear()


@asynccontextmanager
async def client(rig: Rig, **options: Any) -> AsyncIterator[Client]:
    async with rig.session.ws_connect(WS, **options) as socket:
        yield Client(socket)


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    async with serving(nats.url, max_batch_events=5) as found:
        yield found


def event(name: str, event_type: str = "good", **more: Any) -> dict[str, Any]:
    return {"event_id": name, "event_type": event_type, "source": "test", **more}


async def test_an_event_is_acked_with_the_clients_id_when_it_is_stored(rig: Rig) -> None:
    async with client(rig) as socket:
        for given in ("mine", 7, None):
            answer = await socket.ask(type="event", id=given, event=event(f"e{given}"))
            assert answer == {"type": "ack", "id": given, "results": [{"event_id": f"e{given}", "status": "accepted"}]}
        assert [stored.event_id for stored in await rig.stored()] == ["emine", "e7", "eNone"]
        again = await socket.ask(type="event", event=event("e7"))
        assert again == {"type": "ack", "results": [{"event_id": "e7", "status": "accepted", "duplicate": True}]}


async def test_both_lanes(nats: NatsServer) -> None:
    async with serving(nats.url, express=False) as rig, client(rig) as socket:
        assert (await socket.ask(type="event", id=1, event=event("e")))["type"] == "ack"


async def test_many_under_way_are_all_acked(rig: Rig) -> None:
    async with client(rig) as first, client(rig) as second:
        for number in range(1000):
            await first.say(type="event", id=number, event=event(f"a{number}"))
            await second.say(type="event", id=number, event=event(f"b{number}"))
        for socket, prefix in ((first, "a"), (second, "b")):
            answers = [await socket.hear() for _ in range(1000)]
            assert {answer["id"]: answer["results"][0]["event_id"] for answer in answers} == {
                number: f"{prefix}{number}" for number in range(1000)
            }


async def test_a_batch(rig: Rig) -> None:
    async with client(rig) as socket:
        answer = await socket.ask(type="batch", id="b", events=[event("e1"), {"event_type": "x"}, event("e1")])
        accepted, refused, duplicate = answer["results"]
        assert (answer["type"], answer["id"]) == ("ack", "b")
        assert accepted == {"event_id": "e1", "status": "accepted"}
        assert (refused["status"], refused["error"]["pointer"]) == ("rejected", "/source")
        assert duplicate["duplicate"] is True
        too_many = await socket.ask(type="batch", id="c", events=[event(f"{n}") for n in range(6)])
        assert (too_many["type"], too_many["id"], too_many["problem"]["code"]) == ("error", "c", "BATCH_TOO_LARGE")
        empty = await socket.ask(type="batch", events=[])
        assert empty["problem"]["code"] == "INVALID_EVENT"


async def test_an_event_that_is_refused_is_a_problem(rig: Rig) -> None:
    async with client(rig) as socket:
        answer = await socket.ask(type="event", id=1, event={"event_type": "x", "source": ""})
        problem = answer["problem"]
        assert (answer["type"], answer["id"]) == ("error", 1)
        assert (problem["status"], problem["code"], problem["errors"][0]["pointer"]) == (400, "INVALID_EVENT", "/source")
        assert problem["request_id"].startswith("req_")


@pytest.mark.parametrize(
    ("frame", "given"),
    [
        ("", None),
        ("{", None),
        ("[]", None),
        ("7", None),
        ('{"id":1}', 1),
        ('{"id":1,"type":"nothing"}', 1),
        ('{"id":1,"type":"event"}', 1),
        ('{"id":"a","type":"event","event":{},"more":1}', "a"),
        ('{"id":[],"type":"event","event":{}}', None),
        ('{"id":"%s","type":"event","event":{}}' % ("x" * 129), None),
        ('{"id":1,"type":"subscribe","event_types":"x"}', 1),
        ('{"id":1,"type":"subscribe","after":-1}', 1),
        ('{"id":1,"type":"subscribe","since":"yesterday"}', 1),
        ('{"id":1,"type":"subscribe","since":1e9}', 1),
        ("[" * 100_000, None),
    ],
)
async def test_a_bad_frame_is_told_and_no_more(rig: Rig, frame: str, given: Any) -> None:
    async with client(rig) as socket:
        await socket.socket.send_str(frame)
        answer = await socket.hear()
        assert (answer["type"], answer.get("id"), answer["problem"]["code"]) == ("error", given, "INVALID_REQUEST")
        assert (await socket.ask(type="event", id=2, event=event("e")))["type"] == "ack"


async def test_what_is_no_text_is_told_and_no_more(rig: Rig) -> None:
    async with client(rig) as socket:
        await socket.socket.send_bytes(GOOD)
        assert "text frames" in (await socket.hear())["problem"]["detail"]
        await socket.socket.send_frame(b'{"type":"event","event":{"event_type":"\xff","source":"x"}}', WSMsgType.TEXT)
        assert (await socket.hear())["type"] == "error"
        assert (await socket.ask(type="event", event=event("e")))["type"] == "ack"


async def test_a_frame_larger_than_a_batch_closes(nats: NatsServer) -> None:
    async with serving(nats.url, max_batch_bytes=10_000) as rig:
        async with client(rig) as socket:
            await socket.socket.send_str("x" * 20_000)
            assert await socket.hear() == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        async with client(rig) as socket:
            assert (await socket.ask(type="event", event=event("e")))["type"] == "ack"


async def test_a_broker_that_is_away_is_a_problem_that_passes(nats: NatsServer, rig: Rig) -> None:
    async with client(rig) as socket:
        nats.kill()

        async def refused() -> bool:
            answer = await socket.ask(type="event", id=1, event=event("e"))
            return bool(answer["type"] == "error" and answer["problem"]["code"] == "UNAVAILABLE" and answer["retry_after"] > 0)

        await until(refused, SECONDS)
        many = await socket.ask(type="batch", id=2, events=[event("e"), event("f")])
        assert (many["problem"]["code"], many["retry_after"]) == ("UNAVAILABLE", 1)
        nats.start()

        async def accepted() -> bool:
            return bool((await socket.ask(type="event", id=1, event=event("e")))["type"] == "ack")

        await until(accepted, SECONDS)


async def test_no_more_is_read_than_can_be_answered() -> None:
    async with lane(websocket_window=10) as found, aiohttp.ClientSession(f"http://127.0.0.1:{found.port}") as session:
        found.store.holding = True
        async with session.ws_connect(WS) as raw:
            socket = Client(raw)
            for number in range(25):
                await socket.say(type="event", id=number, event=event(f"e{number}"))
            for stored in (10, 20, 25):
                await until(lambda stored=stored: len(found.store.payloads) >= stored)  # type: ignore[misc]
                assert len(found.store.payloads) == stored
                found.store.release_all()
            assert [(await socket.hear())["id"] for _ in range(25)] == list(range(25))


async def refuses(port: int) -> bool:
    """Whether nobody listens any more."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False


async def test_a_drain_answers_what_is_in_flight_and_says_goodbye() -> None:
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as session:
        found = await stack.enter_async_context(lane())
        found.store.holding = True
        async with session.ws_connect(f"http://127.0.0.1:{found.port}{WS}") as raw:
            socket = Client(raw)
            await socket.say(type="event", id=1, event=event("e"))
            await until(lambda: found.store.held)
            leaving = asyncio.create_task(stack.aclose())
            await until(lambda: refuses(found.port))
            await turns()
            found.store.release_all()
            assert (await socket.hear())["type"] == "ack"
            assert await socket.hear() == aiohttp.WSCloseCode.GOING_AWAY
        await leaving


async def test_an_idle_connection_is_closed(nats: NatsServer) -> None:
    async with serving(nats.url, websocket_idle_seconds=1) as rig, client(rig) as idle:
        assert await idle.hear() == aiohttp.WSCloseCode.OK


async def test_one_that_listens_is_not_idle(nats: NatsServer) -> None:
    async with serving(nats.url, websocket_idle_seconds=2) as rig, client(rig) as idle, client(rig) as listening:
        assert (await listening.ask(type="subscribe"))["type"] == "ack"
        assert await idle.hear() == aiohttp.WSCloseCode.OK
        await rig.post(GOOD)
        assert (await listening.hear())["type"] == "event"
        assert (await listening.ask(type="unsubscribe"))["type"] == "ack"
        assert await listening.hear() == aiohttp.WSCloseCode.OK


async def test_a_client_that_answers_no_ping_is_let_go(nats: NatsServer) -> None:
    async with serving(nats.url, websocket_ping_seconds=0.2) as rig, client(rig, autoping=False) as socket:
        assert (await socket.socket.receive(SECONDS)).type is WSMsgType.PING
        while (message := await socket.socket.receive(SECONDS)).type is WSMsgType.PING:
            pass
        assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)


# Listening.


async def test_events_are_heard_as_they_are_stored(rig: Rig) -> None:
    async with client(rig) as socket, client(rig) as sender:
        assert await socket.ask(type="subscribe", id="s", event_types=["user.*"]) == {
            "type": "ack", "id": "s", "results": [], "after": 0
        }  # fmt: skip
        for name in ("user.created", "order.paid", "user.deleted"):
            await sender.ask(type="event", event=event(name, name, data={"n": 1}))
        heard = [await socket.hear() for _ in range(2)]
        assert [(frame["type"], frame["sequence"], frame["event"]["event_type"]) for frame in heard] == [
            ("event", 1, "user.created"),
            ("event", 3, "user.deleted"),
        ]
        assert heard[0]["event"]["data"] == {"n": 1}


async def test_events_are_heard_from_where_the_client_was(rig: Rig) -> None:
    async with client(rig) as socket:
        for number in range(5):
            await socket.ask(type="event", event=event(f"e{number}"))
        assert (await socket.ask(type="subscribe", id=1, after=3))["after"] == 3
        assert [(await socket.hear())["sequence"] for _ in range(2)] == [4, 5]
        assert (await socket.ask(type="unsubscribe", id=2)) == {"type": "ack", "id": 2, "results": []}
        assert (await socket.ask(type="subscribe", since="2020-01-01T00:00:00Z"))["after"] == 0
        assert [(await socket.hear())["sequence"] for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_events_of_all_sizes_are_heard_whole(rig: Rig) -> None:
    sizes = (1, 300, 65_536, 100_000, 2)
    async with client(rig) as socket, client(rig) as sender:
        await socket.ask(type="subscribe")
        for size in sizes:
            await sender.say(type="event", event=event(f"e{size}", data="x" * size))
        assert [len((await socket.hear())["event"]["data"]) for _ in sizes] == list(sizes)


async def test_events_are_heard_by_conditions(rig: Rig) -> None:
    conditions = [{"field": "data.amount", "operator": "gt", "value": 10}]
    async with client(rig) as socket, client(rig) as sender:
        await socket.ask(type="subscribe", conditions=conditions)
        for amount in (5, 15):
            await sender.ask(type="event", event=event(f"e{amount}", data={"amount": amount}))
        assert (await socket.hear())["event"]["event_id"] == "e15"


async def test_a_subscription_that_makes_no_sense(rig: Rig) -> None:
    async with client(rig) as socket:
        answer = await socket.ask(type="subscribe", id=1, conditions=[{"field": "data.x", "operator": "larger", "value": 1}])
        problem = answer["problem"]
        assert (problem["status"], problem["code"]) == (422, "INVALID_RULES")
        assert problem["errors"][0]["pointer"] == "/conditions/0/operator"
        assert (await socket.ask(type="subscribe", id=2))["type"] == "ack"
        assert (await socket.ask(type="subscribe", id=3))["problem"]["code"] == "CONFLICT"


async def test_more_listeners_than_may_be(nats: NatsServer) -> None:
    async with serving(nats.url, max_listeners=1) as rig, client(rig) as first, client(rig) as second:
        assert (await first.ask(type="subscribe"))["type"] == "ack"
        refused = await second.ask(type="subscribe")
        assert (refused["problem"]["code"], refused["retry_after"]) == ("RATE_LIMITED", 5)
        await first.ask(type="unsubscribe")

        async def taken() -> bool:
            return bool((await second.ask(type="subscribe"))["type"] == "ack")

        await until(taken)


async def test_a_listener_that_does_not_read_is_told_what_it_missed_and_cut(nats: NatsServer) -> None:
    """The connection holds some megabytes; what it was sent has no gap, and what it missed is the rest."""
    count, large = 60, "x" * 500_000
    async with serving(nats.url, listener_bytes=1) as rig, client(rig) as slow, client(rig) as quick:
        await slow.ask(type="subscribe")
        await quick.ask(type="subscribe")
        for number in range(count):
            await rig.post(json.dumps(event(f"e{number}", data=large)).encode())
            assert (await quick.hear())["sequence"] == number + 1
        heard: list[int] = []
        while (frame := await slow.hear())["type"] == "event":
            heard.append(frame["sequence"])
        assert heard == list(range(1, len(heard) + 1))
        assert frame == {"type": "lagged", "missed": count - len(heard)}
        assert await slow.hear() == aiohttp.WSCloseCode.TRY_AGAIN_LATER


# Who may.


async def test_a_foreign_page_may_not(rig: Rig) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example:8080"}):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await rig.session.ws_connect(WS, headers=headers)
        assert caught.value.status == 403
    async with client(rig, headers={"Origin": f"http://127.0.0.1:{rig.port}"}) as socket:
        assert (await socket.ask(type="event", event=event("e")))["type"] == "ack"


async def test_what_is_no_handshake(rig: Rig) -> None:
    async with rig.session.get(WS) as answer:
        assert (answer.status, (await answer.json(content_type=None))["code"]) == (400, "INVALID_REQUEST")
