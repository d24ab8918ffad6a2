"""The two lanes are one to their clients: whatever bytes come, both answer alike, store alike, and close alike.

Each example is played to both lanes over socket pairs, cut into the same pieces. Everything settles at once, so that a lane which
has nothing more to do when the loop has turned a few times never will have: no time passes.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from tests.services.ingest.lanes import Store, parts, turns

EVENTS, BATCH = b"/api/v1/events", b"/api/v1/events/batch"
GOOD = b'{"event_type":"good","source":"test","event_id":"e1"}'
QUIET_TURNS = 25
EXAMPLES = int(os.environ.get("TAS_TEST_EXAMPLES", "300"))

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")


class Outcome(NamedTuple):
    """What a client sees, and what was stored."""

    answers: list[tuple[int, str]]
    """The status of each answer, and the code of its problem."""
    closed: bool
    stored: list[Any]


async def play(pieces: list[bytes], *, express: bool, **changes: Any) -> Outcome:
    """Send ``pieces`` to a lane, each when it has dealt with those before; ``changes`` are settings."""
    store = Store()
    app, front = parts(store, express=express, express_bytes=2000, max_batch_events=5, **changes)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.001, auto_decompress=False)
    await runner.setup()
    assert runner.server is not None
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    received, closed = b"", False
    await loop.connect_accepted_socket(front.attach(runner.server) if front else runner.server, theirs)
    try:
        for piece in pieces:
            try:
                ours.sendall(piece)
            except OSError:  # it was closed, or takes no more
                break
            await turns(QUIET_TURNS if len(piece) > 1 else 2)
        quiet = 0
        while quiet < QUIET_TURNS and not closed:
            await turns(1)
            try:
                data = ours.recv(1_000_000)
                received, closed, quiet = received + data, not data, 0
            except BlockingIOError:
                quiet += 1
            except OSError:
                closed = True
    finally:
        ours.close()
        await turns(QUIET_TURNS)
        if front:
            await front.drain()
        await runner.cleanup()
    return Outcome(list(answers(received)), closed, store.stored())


def answers(received: bytes) -> Iterator[tuple[int, str]]:
    """Read a stream of answers, and be strict with it."""
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        assert end, head
        first, *lines = head.decode().split("\r\n")
        version, status = first.split(" ")[:2]
        assert version.startswith("HTTP/"), first
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert len(headers) == len(lines), head
        length = int(headers.get("content-length", "0"))
        body, received = received[:length], received[length:]
        assert len(body) == length
        content = json.loads(body) if "json" in headers.get("content-type", "") else {}
        yield int(status), content.get("code", "")


def both(pieces: list[bytes], **changes: Any) -> Outcome:
    """What both lanes make of it."""
    logging.disable(logging.CRITICAL)
    try:
        first = asyncio.run(play(pieces, express=True, **changes))
        second = asyncio.run(play(pieces, express=False, **changes))
    finally:
        logging.disable(logging.NOTSET)
    assert first == second or (alike(first, second) and any(len(piece) > 1 for piece in pieces)), pieces
    return first


def alike(first: Outcome, second: Outcome) -> bool:
    """aiohttp drops what it has read in one go with something malformed, be it right: it answers 400 alone, and closes."""
    short, long = sorted((first, second), key=lambda outcome: len(outcome.answers))
    malformed = all(each.closed and each.answers[-1:] == [(400, "")] for each in (first, second))
    answers, stored = len(short.answers) - 1, len(short.stored)
    return malformed and short.answers[:answers] == long.answers[:answers] and short.stored == long.stored[:stored]


# What is sent.

TEXT = st.text('abcXYZ09 -_/{}[]",:é\0\x01\t', max_size=12).map(lambda text: text.encode("latin-1", "replace"))
BODIES = st.one_of(
    st.just(GOOD),
    st.sampled_from(
        [b"{}", b"[]", b"null", b"x", b" " + GOOD, b"[" + GOOD + b"]", b"[" + GOOD + b",{}]", b"[" + b"1," * 6 + b"1]"]
    ),
    st.integers(0, 2500).map(lambda size: b'{"event_type":"a","source":"b","data":"%s"}' % (b"x" * size)),
    TEXT,
)
NAMES = st.sampled_from(
    b"""
    Host Content-Type Content-Length Connection X-Request-Id Transfer-Encoding Expect Upgrade Prefer Content-Encoding TE Trailer
    Keep-Alive Proxy-Connection X-A Accept Cookie Date Authorization traceparent Sec-Fetch-Site Origin Sec-WebSocket-Key1 ETag
    Server Content-Location Content-Range Max-Forwards User-Agent host content-type CONTENT-LENGTH connection
    ce-id ce-type Ce-Source CE-SPECVERSION ce-time ce-subject ce-ext ce-data ce-my_ext ce- ce-datacontenttype
    """.split()
)
WORDS = b"""
    close keep-alive Keep-Alive chunked gzip identity 100-continue websocket h2c trailers * text/plain application/json
    Application/Json application/octet-stream application/x-ndjson application/cloudevents+json
    application/cloudevents-batch+json Application/CloudEvents+JSON application/cloudevents 1.0 a%20b %C0%A0 100%
    "a" 0 1 5 +5 -5 5,5 0x5 007 99999999999999999999 cross-site a.b:80
    """.split()
SEVERAL = [
    b"",
    b"application/json; charset=utf-8",
    b"application/json; charset=x",
    b"keep-alive, close",
    b"a b",
    b"\xe9",
    b"a\tb",
]
VALUES = st.one_of(st.sampled_from([*WORDS, *SEVERAL]), TEXT)
ODD_LINES = st.one_of(
    st.builds(lambda name, value: name + b": " + value, NAMES, VALUES),
    st.builds(lambda name, value: name + b":" + value, NAMES, VALUES),
    st.builds(lambda name, value: name + b" : " + value, NAMES, VALUES),
    st.sampled_from([b" folded", b"\tfolded", b"nothing", b": x", b"X\0: y", b"X: a\nY: b", b"X: a\rY: b", b"X-\xe9: 1"]),
    st.integers(1, 200).map(lambda count: b"\r\n".join(b"X-%d: y" % number for number in range(count))),
    st.sampled_from([8000, 8180, 8190, 8300, 20_000]).map(lambda size: b"X-Long: " + b"y" * size),
)
FIRST_LINES = st.one_of(
    st.sampled_from([EVENTS, BATCH]).map(lambda path: b"POST " + path + b" HTTP/1.1"),
    st.builds(
        lambda method, path, version, gap: gap.join([method, path, version]),
        st.sampled_from(b"POST GET PUT OPTIONS DELETE post CONNECT PRI POSTS PO".split()),
        st.sampled_from(
            [EVENTS, BATCH, EVENTS + b"/", EVENTS + b"?a=b", b"http://h" + EVENTS, b"/", b"*", b"/health", b"/%00", b"x", b""]
        ),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"http/1.1", b"HTTP/1.1 ", b""]),
        st.sampled_from([b" ", b" ", b" ", b"  ", b"\t"]),
    ),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request: half of them right, the others with one thing odd about them, or two."""
    body = draw(BODIES)
    first, ending = b"POST " + (BATCH if body[:1] == b"[" else EVENTS) + b" HTTP/1.1", b"\r\n"
    lines = [b"Host: test", b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    if draw(st.integers(0, 3)) == 0:
        lines += [b"ce-specversion: 1.0", b"Ce-Id: c1", b"ce-source:/s", b"CE-type: t", b"ce-ext: " + draw(VALUES)]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, len(lines)))
        match draw(st.sampled_from(["first line", "ending", "missing", "twice", "value", "line", "line", "chunked"])):
            case "first line":
                first = draw(FIRST_LINES)
            case "ending":
                ending = draw(st.sampled_from([b"\n", b"\r"]))
            case "missing":
                del lines[at : at + 1]
            case "twice":
                lines.insert(at, draw(st.sampled_from(lines or [b"X: y"])))
            case "value":
                lines[at : at + 1] = [line.partition(b":")[0] + b": " + draw(VALUES) for line in lines[at : at + 1]]
            case "line":
                lines.insert(at, draw(ODD_LINES))
            case "chunked":
                lines = [line for line in lines if not line.startswith(b"Content-Length")]
                lines.append(b"Transfer-Encoding: chunked")
                body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:3], body[3:]) if part) + b"0\r\n\r\n"
    return ending.join([first, *lines, b"", b""]) + body


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """What a client sends, in pieces."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=4)))
    match draw(st.integers(0, 7)):
        case 0:
            data = data[: draw(st.integers(0, len(data)))]
        case 1:
            at = draw(st.integers(0, len(data)))
            data = data[:at] + draw(st.one_of(TEXT, st.binary(max_size=6))) + data[at:]
        case 2:
            at = draw(st.integers(0, len(data)))
            data = data[:at] + data[at + draw(st.integers(1, 5)) :]
        case 3:
            data = draw(st.sampled_from([b"\r\n", b"\n", b"\r", b" ", b"\0", b"\r\n\r\n"])) + data
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]


@settings(max_examples=EXAMPLES, derandomize="CI" in os.environ, suppress_health_check=list(HealthCheck))
@given(streams())
def test_both_lanes_agree(pieces: list[bytes]) -> None:
    for answer in both(pieces).answers:
        event(f"answered {answer}")


@settings(max_examples=EXAMPLES // 3, derandomize="CI" in os.environ, suppress_health_check=list(HealthCheck))
@given(streams())
def test_both_lanes_agree_on_single_bytes(pieces: list[bytes]) -> None:
    both([bytes([byte]) for byte in b"".join(pieces)][:3000])


@settings(max_examples=EXAMPLES // 3, derandomize="CI" in os.environ)
@given(st.lists(st.binary(max_size=100), max_size=4))
@example([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
@example([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_both_lanes_agree_on_garbage(pieces: list[bytes]) -> None:
    both([piece for piece in pieces if piece])


ADMIN = "an-admin-key-of-at-least-32-characters"
CREDENTIALS = st.builds(
    lambda name, value: name + b": " + value,
    st.sampled_from([b"Authorization", b"authorization", b"X-API-Key", b"x-api-key", b"Sec-WebSocket-Protocol", b"X-Other"]),
    st.builds(
        lambda before, key, after: before + key + after,
        st.sampled_from([b"", b"Bearer ", b"bearer  ", b"BEARER\t", b"Basic ", b"tas.bearer.", b"tas.v1, tas.bearer."]),
        st.sampled_from([ADMIN.encode(), ADMIN.encode(), b"tas_0123456789ab_" + b"x" * 43, b"a.b.c", b"", b"\xe9"]),
        st.sampled_from([b"", b"", b" ", b" x", b",x"]),
    ),
)


@settings(max_examples=EXAMPLES, derandomize="CI" in os.environ, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(CREDENTIALS, max_size=2), min_size=1, max_size=3), st.sampled_from([GOOD, b"[" + GOOD + b"]", b"x"]))
def test_both_lanes_let_the_same_callers_in(requests: list[list[bytes]], body: bytes) -> None:
    first = b"POST %s HTTP/1.1" % (BATCH if body[:1] == b"[" else EVENTS)
    lines = [b"Host: t", b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    sent = [b"\r\n".join([first, *lines, *more, b"", b""]) + body for more in requests]
    found = both(sent, auth="keys", admin_key=ADMIN)
    if not any(ADMIN.encode() in line for more in requests for line in more):
        assert found.stored == []
        assert {status for status, _ in found.answers} <= {400, 401, 503}
    for answer in found.answers:
        event(f"answered {answer}")


def right(body: bytes = GOOD, path: bytes = EVENTS) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        path,
        len(body),
        body,
    )


def attributed(*more: bytes, content_type: bytes = b"application/json", body: bytes = b"[1]") -> bytes:
    lines = [b"Host: t", b"ce-id: c1", b"ce-source: s", b"Content-Type: " + content_type, b"ce-type: t", b"ce-specversion: 1.0"]
    lines += [*more, b"Content-Length: %d" % len(body)]
    return b"POST /api/v1/events HTTP/1.1\r\n" + b"\r\n".join([*lines, b"", b""]) + body


def test_both_lanes_agree_on_the_binary_mode() -> None:
    sound = attributed(b"ce-ext: a%20b", b"Ce-Other:\tx")
    for pieces in ([sound], [sound[:50], sound[50:]], [bytes([byte]) for byte in sound]):
        [(found_id, _, _, data, _)] = both(pieces).stored
        assert (found_id, data) == ("c1", b"[1]")
    odd = [
        b"ce-ext: a\r\n folded",
        b"ce-ext : a",
        b"ce-a_b: c",
        b"ce-ext: \xff",
        b"ce-id: c2",
        b"ce-: a",
        b"ce-ext: a\0b",
        b"ce-ext: a\x01b",
    ]
    for line in odd:
        [(status, _)] = both([attributed(line)]).answers
        assert status == 400, line
    for content_type in (b"image/png", b"", b"\xff", b"application/cloudevents+json", b"application/cloudevents", b"a b;c=\td"):
        both([attributed(content_type=content_type)])
    assert both([attributed(body=b"")]).answers == [(200, "")]
    assert both([attributed(*(b"ce-x%d: y" % number for number in range(50)))]).answers == [(200, "")]
    assert both([attributed(*(b"ce-x%d: y" % number for number in range(70)))]).answers == [(400, "INVALID_EVENT")]


def test_what_is_compared_is_something() -> None:
    found = both(
        [right() + right(b"{}") + right(b"[%s,{}]" % GOOD, BATCH) + b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n" + right()]
    )
    assert found.answers == [(200, ""), (400, "INVALID_EVENT"), (200, ""), (200, ""), (200, "")]
    assert not found.closed
    assert [each[0] for each in found.stored] == ["e1", "e1", "e1"]
    closed = both([right().replace(b"Host", b"Connection: close\r\nHost"), right()])
    assert closed == ([(200, "")], True, found.stored[:1])
