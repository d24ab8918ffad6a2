"""The event routes over real sockets and a real broker, on both lanes."""

import gzip
import json
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tas_mcp import subjects
from tas_mcp.messages import event_key
from tests.nats_server import NatsServer
from tests.services.ingest.rig import BATCH, EVENTS, GOOD, Reply, Rig, connected, request, serving
from tests.shared.rig import ensure_stream, linked, until

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}").fullmatch


def event(**members: Any) -> bytes:
    return json.dumps({"event_type": "user.created", "source": "auth", **members}).encode()


# One event.


async def test_accepted_and_stored(rig: Rig) -> None:
    body = (
        b'{"event_id":"e 1/2","event_type":"user.created","source":"auth","timestamp":5,"data":{"n": 1.0},"metadata":{"a":"b"}}'
    )
    found = await rig.post(body)
    assert (found.status, found.body) == (200, {"event_id": "e 1/2", "status": "accepted"})
    assert found.headers["location"] == "/api/v1/events/e%201%2F2"
    assert found.headers["content-type"].startswith("application/json")
    message = (await rig.broker.messages(subjects.EVENTS))[0]
    stored = (await rig.stored())[0]
    assert message.subject == "tas.events.user.created"
    assert message.headers == {"Nats-Msg-Id": event_key("auth", "e 1/2")}
    assert (stored.event_id, stored.event_type, stored.source, stored.timestamp) == ("e 1/2", "user.created", "auth", 5)
    assert (bytes(stored.data), stored.metadata) == (b'{"n": 1.0}', {"a": "b"})


async def test_an_id_is_made_where_there_is_none(rig: Rig) -> None:
    found = await rig.post(GOOD)
    assert UUID7(found.body["event_id"])
    assert (await rig.stored())[0].event_id == found.body["event_id"]


async def test_a_duplicate_is_no_error_and_stored_once(rig: Rig) -> None:
    first = await rig.post(event(event_id="e1", data=1))
    again = await rig.post(event(event_id="e1", data=2))
    other = await rig.post(event(event_id="e1", source="billing"))
    assert "duplicate" not in first.body
    assert (again.status, again.body) == (200, {"event_id": "e1", "status": "accepted", "duplicate": True})
    assert again.headers["location"] == first.headers["location"]
    assert "duplicate" not in other.body, "another source may use the same id"
    assert [bytes(stored.data) for stored in await rig.stored()] == [b"1", b"null"]


async def test_a_refused_event_is_a_problem(rig: Rig) -> None:
    headers = {"Content-Type": "application/json", "X-Request-Id": "r1"}
    found = await rig.post(event(source=""), headers=headers)
    assert found.status == 400
    assert found.headers["content-type"] == "application/problem+json"
    assert found.headers["x-request-id"] == "r1"
    assert found.body == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "detail": "/source: must not be empty",
        "code": "INVALID_EVENT",
        "request_id": "r1",
        "errors": [{"pointer": "/source", "detail": "must not be empty"}],
    }
    assert await rig.stored() == []


NO_EVENTS = [
    b"{}",
    b"not json",
    b"[]",
    b"\xff\xfe",
    b"\xef\xbb\xbf" + GOOD,
    b'{"event_type":"a","source":"b","data":NaN}',
    b'{"event_type":"a","source":"b","data":1e999}',
    b'{"event_type":"a","source":"b","data":' + b"9" * 5000 + b"}",
    b'{"event_type":"a","source":"b","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    b'{"event_type":"a","source":"b","data":' + b'{"a":' * 10_000,
    b'{"event_type":"a","source":"b","data":"' + b"[" * 20_000 + b"]" * 20_000 + b'"}',
    b'{"event_type":"a","source":"b","data":"\xff"}',
]


async def test_what_cannot_be_an_event_is_400(rig: Rig) -> None:
    for body in NO_EVENTS:
        found = await rig.post(body)
        assert (found.status, found.body["code"]) == (400, "INVALID_EVENT"), body[:60]
        assert found.body["detail"]
    assert await rig.stored() == []
    assert (await rig.post(GOOD)).status == 200


async def test_an_event_that_is_too_large(nats: NatsServer, express: bool) -> None:
    async with serving(nats.url, express=express, max_event_bytes=100) as rig:
        found = await rig.post(event(data="x" * 100))
        assert (found.status, found.body["code"]) == (413, "EVENT_TOO_LARGE")
        assert "the limit is 100" in found.body["detail"]


async def test_larger_than_the_broker_takes_is_413_too(nats: NatsServer, express: bool) -> None:
    async with serving(nats.url, express=express, max_event_bytes=2_000_000, express_bytes=2_000_000) as rig:
        found = await rig.post(event(data="x" * 1_100_000))
        assert (found.status, found.body["code"]) == (413, "TOO_LARGE")
        assert (await rig.post(GOOD)).status == 200


CONTENT_TYPES: list[tuple[dict[str, str], int]] = [
    ({}, 200),
    ({"Content-Type": "application/json"}, 200),
    ({"Content-Type": "Application/JSON; charset=UTF-8"}, 200),
    ({"Content-Type": 'application/json; charset="utf-8"'}, 200),
    ({"Content-Type": "application/octet-stream"}, 200),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 200),
    ({"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8", "Sec-Fetch-Site": "same-origin"}, 200),
    ({"Content-Type": "application/json", "Content-Encoding": "identity"}, 200),
    ({"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, 200),
    ({"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "cross-site"}, 415),
    ({"Content-Type": "application/json; charset=latin-1"}, 415),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
    ({"Content-Type": "application/jsonp"}, 415),
    ({"Content-Type": "application/cloudevents+xml"}, 415),
]


@pytest.mark.parametrize("path", [EVENTS, BATCH])
async def test_content_types(rig: Rig, path: str) -> None:
    body = GOOD if path == EVENTS else b"[%s]" % GOOD
    for headers, status in CONTENT_TYPES:
        found = await rig.post(body, path, headers=headers)
        assert found.status == status, headers
        assert status == 200 or found.body["code"] == "UNSUPPORTED_MEDIA_TYPE"
    assert len(await rig.stored()) == sum(status == 200 for _, status in CONTENT_TYPES)


@pytest.mark.parametrize("path", [EVENTS, BATCH])
async def test_an_empty_body(rig: Rig, path: str) -> None:
    found = await rig.post(b"", path)
    assert (found.status, found.body["code"]) == (400, "INVALID_EVENT")


async def test_a_batch_of_cloudevents_may_be_empty_and_no_other(rig: Rig) -> None:
    found = await rig.post(b"[]", BATCH, {"Content-Type": "application/cloudevents-batch+json"})
    assert (found.status, found.body["processed"], found.body["results"]) == (200, 0, [])
    assert (await rig.post(b"[]", BATCH)).status == 400


async def test_other_methods_and_paths(rig: Rig) -> None:
    async with rig.session.put(EVENTS, data=GOOD) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    async with rig.session.post("/api/v1/event", data=GOOD) as answer:
        assert answer.status == 404
    async with rig.session.get("/health") as answer:
        assert answer.status == 200


# CloudEvents and lines; what is read from them is in test_cloudevents.py and test_forms.py.

CLOUDEVENT = {"specversion": "1.0", "id": "c1", "source": "/shop", "type": "order.created", "subject": "ü", "n": 5}
HEADERS = {"ce-specversion": "1.0", "ce-id": "c1", "Ce-Source": "/shop", "CE-Type": "order.created", "ce-subject": "%C3%BC"}


async def test_a_cloudevent_in_the_structured_mode(rig: Rig) -> None:
    found = await rig.post(
        json.dumps({**CLOUDEVENT, "data": [1]}).encode(), headers={"Content-Type": "application/cloudevents+json"}
    )
    assert (found.status, found.body) == (200, {"event_id": "c1", "status": "accepted"})
    [stored] = await rig.stored()
    assert (stored.event_id, stored.event_type, stored.source, bytes(stored.data)) == ("c1", "order.created", "/shop", b"[1]")
    assert stored.cloudevent == {"specversion": "1.0", "subject": "ü", "n": 5}
    bad = await rig.post(
        b'{"specversion":"1.0","id":"1"}', headers={"Content-Type": "application/cloudevents+json; charset=utf-8"}
    )
    assert (bad.status, bad.body["code"], bad.body["errors"][0]["pointer"]) == (400, "INVALID_EVENT", "/source")


async def test_a_cloudevent_in_the_binary_mode(rig: Rig) -> None:
    bodies = [
        ("application/json", b'{"n": 1.0}'),
        ("text/plain", b"hello"),
        ("image/png", b"\x00\xff"),
        ("application/json", b""),
    ]
    for number, (content_type, body) in enumerate(bodies):
        found = await rig.post(body, headers={**HEADERS, "ce-id": f"c{number}", "Content-Type": content_type})
        assert (found.status, found.body) == (200, {"event_id": f"c{number}", "status": "accepted"})
    stored = await rig.stored()
    assert [bytes(each.data) for each in stored] == [b'{"n": 1.0}', b'"hello"', b"null", b"null"]
    assert [each.cloudevent["datacontenttype"] for each in stored] == [content_type for content_type, _ in bodies]
    assert {each.cloudevent["subject"] for each in stored} == {"ü"}
    bad = await rig.post(b"{}", headers={"ce-id": "1", "Content-Type": "application/json"})
    assert (bad.status, bad.body["errors"][0]["pointer"]) == (400, "/specversion")
    odd = await rig.post(b"{}", headers={**HEADERS, "ce-my_ext": "x", "Content-Type": "application/json"})
    assert (odd.status, odd.body["errors"][0]["pointer"]) == (400, "/my_ext")


async def test_a_batch_of_cloudevents(rig: Rig) -> None:
    batch = [CLOUDEVENT, {**CLOUDEVENT, "id": "c2", "data": {"a": 1}}, {**CLOUDEVENT, "specversion": "0.3"}]
    found = await rig.post(json.dumps(batch).encode(), BATCH, headers={"Content-Type": "application/cloudevents-batch+json"})
    assert (found.status, found.body["accepted"], found.body["rejected"]) == (200, 2, 1)
    assert found.body["results"][2]["error"]["pointer"] == "/specversion"
    assert [each.event_id for each in await rig.stored()] == ["c1", "c2"]


async def test_lines_are_a_batch(rig: Rig) -> None:
    body = b"\n".join([event(event_id="a"), b"", event(event_id="b") + b"\r", b"{}", b"not json"])
    found = await rig.post(body + b"\n", BATCH, headers={"Content-Type": "application/x-ndjson"})
    assert (found.status, found.body["processed"], found.body["accepted"], found.body["rejected"]) == (200, 4, 2, 2)
    assert [result["status"] for result in found.body["results"]] == ["accepted", "accepted", "rejected", "rejected"]
    assert [each.event_id for each in await rig.stored()] == ["a", "b"]
    many = await rig.post(b"\n".join([GOOD] * 6), BATCH, headers={"Content-Type": "application/x-ndjson"})
    assert (many.status, many.body["code"]) == (413, "BATCH_TOO_LARGE")


async def test_a_form_on_the_wrong_route_is_told_the_right_one(rig: Rig) -> None:
    for path, other, media in [
        (EVENTS, BATCH, "cloudevents-batch+json"),
        (EVENTS, BATCH, "x-ndjson"),
        (BATCH, EVENTS, "cloudevents+json"),
    ]:
        found = await rig.post(b"[]", path, headers={"Content-Type": f"application/{media}"})
        assert (found.status, found.body["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert f"goes to {other}:" in found.body["detail"]


# Compressed bodies.


async def test_gzip(rig: Rig) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    one = await rig.post(gzip.compress(event(event_id="a", data="x" * 1000)), headers=headers)
    two = gzip.compress(b"[" + event(event_id="b")) + gzip.compress(b"," + event(event_id="c") + b"]")
    many = await rig.post(two, BATCH, headers={**headers, "Content-Encoding": "X-GZIP"})
    attributed = await rig.post(
        gzip.compress(b"data"), headers={**HEADERS, "Content-Type": "text/plain", "Content-Encoding": "gzip"}
    )
    assert (one.status, many.body["accepted"], attributed.status) == (200, 2, 200)
    stored = await rig.stored()
    assert [each.event_id for each in stored] == ["a", "b", "c", "c1"]
    assert bytes(stored[3].data) == b'"data"'


async def test_other_encodings_are_415_and_the_answer_says_which_is_taken(rig: Rig) -> None:
    for path in (EVENTS, BATCH):
        for encoding in ("deflate", "br", "gzip, gzip", "zstd"):
            found = await rig.post(GOOD, path, headers={"Content-Type": "application/json", "Content-Encoding": encoding})
            assert (found.status, found.body["code"], found.headers["accept-encoding"]) == (415, "UNSUPPORTED_ENCODING", "gzip")


async def test_a_body_that_is_no_gzip_is_400(rig: Rig) -> None:
    whole = gzip.compress(GOOD)
    for body in (b"", GOOD, whole[:-1], whole + b"x", whole[:20] + b"xxxx" + whole[24:]):
        found = await rig.post(body, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})
        assert (found.status, found.body["code"]) == (400, "INVALID_EVENT"), body
    assert await rig.stored() == []


async def test_a_bomb_is_413(rig: Rig) -> None:
    for path, limit in ((EVENTS, 1_048_576), (BATCH, 100_000)):
        bomb = gzip.compress(b" " * 50_000_000)
        found = await rig.post(bomb, path, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})
        assert (found.status, found.body["code"]) == (413, "TOO_LARGE")
        assert f"more than {limit} bytes when it is unpacked" in found.body["detail"]


# The broker away, full, or without its streams.


async def test_503_while_the_broker_is_away_and_recovery(rig: Rig, nats: NatsServer) -> None:
    await rig.post(event(event_id="before"))
    nats.kill()

    async def refused() -> Reply | None:
        found = await rig.post(event(event_id="lost"))
        return found if found.status == 503 else None

    found = await until(refused)
    assert found.headers["retry-after"] == "1"
    assert found.headers["content-type"] == "application/problem+json"
    assert found.body["code"] == "UNAVAILABLE"
    batch = await rig.post(b"[%s]" % GOOD, BATCH)
    assert (batch.status, batch.headers["retry-after"], batch.body["code"]) == (503, "1", "UNAVAILABLE")
    bad = await rig.post(b"[{}]", BATCH)
    assert (bad.status, bad.body["rejected"]) == (200, 1), "what is wrong is wrong without a broker too"
    nats.start()

    async def accepted() -> bool:
        return (await rig.post(event(event_id="after"))).status == 200

    await until(accepted)
    stored = await until(rig.stored)
    assert {each.event_id for each in stored} >= {"before", "after"}


async def test_a_full_stream_is_503_with_a_longer_wait(rig: Rig) -> None:
    config = (await rig.broker.jetstream.stream_info(subjects.EVENTS))["config"]
    await ensure_stream(rig.broker.jetstream, {**config, "max_bytes": 1000})
    found = await rig.post(event(data="x" * 2000))
    assert (found.status, found.body["code"], found.headers["retry-after"]) == (503, "UNAVAILABLE", "5")
    assert "maximum bytes exceeded" in found.body["detail"]


async def test_without_a_stream_nothing_is_accepted(rig: Rig) -> None:
    await rig.broker.jetstream.call(f"STREAM.DELETE.{subjects.EVENTS}")
    found = await rig.post(GOOD)
    assert (found.status, found.body["code"]) == (503, "UNAVAILABLE")


# Batches.


async def test_a_batch_tells_of_each_entry_in_order(rig: Rig) -> None:
    await rig.post(event(event_id="old"))
    entries = [event(event_id="a"), event(event_id="b", source=""), event(event_id="old"), b'"text"', event(event_id="a")]
    found = await rig.post(b"[%s]" % b",".join(entries), BATCH)
    assert found.status == 200
    text = "Expected `object`, got `str`"
    assert found.body == {
        "processed": 5,
        "accepted": 3,
        "duplicates": 2,
        "rejected": 2,
        "results": [
            {"event_id": "a", "status": "accepted"},
            {
                "status": "rejected",
                "error": {"code": "INVALID_EVENT", "detail": "/source: must not be empty", "pointer": "/source"},
            },
            {"event_id": "old", "status": "accepted", "duplicate": True},
            {"status": "rejected", "error": {"code": "INVALID_EVENT", "detail": f"the event: {text}", "pointer": ""}},
            {"event_id": "a", "status": "accepted", "duplicate": True},
        ],
    }
    assert [each.event_id for each in await rig.stored()] == ["old", "a"]


async def test_a_batch_of_nothing_good_is_200(rig: Rig) -> None:
    found = await rig.post(b"[{},{}]", BATCH)
    assert (found.status, found.body["accepted"], found.body["rejected"]) == (200, 0, 2)


async def test_a_malformed_batch_is_400_as_a_whole(rig: Rig) -> None:
    for body in (b"[]", b"{}", b"x", b"[1,", b"null", b"[" * 1000, GOOD, b"\xff", b'{"events":[]}'):
        found = await rig.post(body, BATCH)
        assert (found.status, found.body["code"]) == (400, "INVALID_EVENT"), body


async def test_a_batch_of_too_many_or_too_large(rig: Rig) -> None:
    found = await rig.post(b"[%s]" % b",".join([GOOD] * 6), BATCH)
    assert (found.status, found.body["code"]) == (413, "BATCH_TOO_LARGE")
    assert "the batch has 6 events; the limit is 5" in found.body["detail"]
    for size in (100_001, 100_002, 300_000):
        found = await rig.post(b"[%s]" % event(data="x" * size)[: size - 2], BATCH)
        assert found.status == 413
        assert found.body["code"] in ("BATCH_TOO_LARGE", "TOO_LARGE")
    assert await rig.stored() == []
    assert (await rig.post(b"[%s]" % b",".join([GOOD] * 5), BATCH)).body["accepted"] == 5


async def test_a_batch_that_is_stored_in_part(nats: NatsServer, express: bool) -> None:
    """A full stream takes the small one and not the large one."""
    async with serving(nats.url, express=express) as rig:
        config = (await rig.broker.jetstream.stream_info(subjects.EVENTS))["config"]
        await ensure_stream(rig.broker.jetstream, {**config, "max_bytes": 2000})
        found = await rig.post(b"[%s,%s,{}]" % (event(data="x" * 5000), event(event_id="small")), BATCH)
        assert (found.status, found.body["accepted"], found.body["rejected"]) == (200, 1, 1)
        large, small, _ = found.body["results"]
        assert (large["status"], large["error"]["code"]) == ("unavailable", "UNAVAILABLE")
        assert small == {"event_id": "small", "status": "accepted"}
        nothing = await rig.post(b"[%s,{}]" % event(data="x" * 5000), BATCH)
        assert (nothing.status, nothing.headers["retry-after"]) == (503, "5")


async def test_a_batch_larger_than_the_window(nats: NatsServer, express: bool) -> None:
    async with serving(nats.url, express=express, publish_window=250) as rig:
        found = await rig.post(b"[%s]" % b",".join(event(event_id=f"e{number}") for number in range(1000)), BATCH)
        assert (found.body["processed"], found.body["accepted"]) == (1000, 1000)
        assert [result["event_id"] for result in found.body["results"]] == [f"e{number}" for number in range(1000)]
        assert (await rig.broker.jetstream.stream_info(subjects.EVENTS))["state"]["messages"] == 1000


# Leaving.


async def test_leaving_answers_what_is_in_flight(nats: NatsServer, express: bool) -> None:
    async with AsyncExitStack() as clients:
        async with serving(nats.url, express=express) as rig:
            idle = await clients.enter_async_context(connected(rig.port))
            busy = await clients.enter_async_context(connected(rig.port))
            idle.send(request(GOOD))
            assert await idle.reply()
            busy.send(request(GOOD) * 20)
            answered = [await busy.reply()]
        while answered[-1] is not None:
            answered.append(await busy.reply())
        assert await idle.closed()
        assert {reply.status for reply in answered if reply} == {200}
        with pytest.raises(ConnectionError):
            await clients.enter_async_context(connected(rig.port))
    async with linked(nats.url) as broker:
        stored = await broker.messages(subjects.EVENTS)
    assert len(stored) == 1 + len(answered) - 1, "what was stored was answered"
