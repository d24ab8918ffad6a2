"""Whatever a client says in its frames, each is answered, and the connection goes on."""

import asyncio
import json
import os
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.ingest import frames
from tas_mcp.errors import Rejected
from tests.services.ingest.lanes import lane

EXAMPLES = int(os.environ.get("TAS_TEST_EXAMPLES", "300"))
SECONDS = 30.0

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=6,
)
events = st.fixed_dictionaries(
    {"event_type": st.just("good") | anything, "source": st.just("test") | anything},
    optional={"event_id": st.just("e") | anything, "data": anything, "metadata": anything, "timestamp": anything},
)
conditions = st.fixed_dictionaries({}, optional=dict.fromkeys(("field", "operator", "value", "all", "not"), anything))
said = st.fixed_dictionaries(
    {"type": st.sampled_from(["event", "batch", "subscribe", "unsubscribe"]) | anything},
    optional={
        "id": anything,
        "event": events | anything,
        "events": st.lists(events, max_size=3) | anything,
        "event_types": st.lists(st.text(max_size=5), max_size=3) | anything,
        "conditions": st.lists(conditions, max_size=3) | anything,
        "since": anything,
        "after": anything,
    },
)
whole = st.builds(lambda value: json.dumps(value).encode(), said | anything)
texts = whole | st.builds(lambda text, cut: text[:cut], whole, st.integers(0, 60)) | st.binary(max_size=40)


@given(texts)
@settings(max_examples=EXAMPLES)
def test_a_frame_is_read_or_rejected(text: bytes) -> None:
    try:
        frames.decode(text)
    except Rejected as error:
        told = json.loads(frames.error(frames.id_of(text), error, "req"))
        code = told["problem"]["code"]
    else:
        code = ""
    assert code in ("", "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_frames_have_their_size_before_them(size: int, head: bytes) -> None:
    assert frames.framed(b"x" * size) == head + b"x" * size


async def talk(said: list[bytes]) -> list[Any]:
    """The answers to frames, and to a good one after them."""
    async with lane() as found, aiohttp.ClientSession(f"http://127.0.0.1:{found.port}") as session:
        async with session.ws_connect("/api/v1/events/ws") as socket:
            for text in [*said, b'{"type":"event","id":"the last","event":{"event_type":"good","source":"test"}}']:
                await socket.send_frame(text, aiohttp.WSMsgType.TEXT)
            return [json.loads((await socket.receive(SECONDS)).data) for _ in range(len(said) + 1)]


@given(st.lists(texts, max_size=8))
@example([b'{"type":"subscribe"}', b'{"type":"subscribe"}', b'{"type":"unsubscribe"}'])
@example([b"\xff", b"", b"null", b'{"type":"event","event":null}', b'{"type":"event","event":"\xff"}'])
@settings(max_examples=max(EXAMPLES // 10, 1), suppress_health_check=list(HealthCheck))
def test_no_frame_ends_the_connection(said: list[bytes]) -> None:
    answers = asyncio.run(talk(said))
    assert {answer["type"] for answer in answers} <= {"ack", "error"}
    assert [answer["type"] for answer in answers if answer.get("id") == "the last"] == ["ack"]
