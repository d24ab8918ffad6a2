"""What event types and sources may look like."""

import re
from pathlib import Path

import pytest

from services.ingest.names import Names
from tas_mcp.errors import Misconfigured, Rejected
from tests.nats_server import NatsServer
from tests.services.ingest.rig import BATCH, serving


@pytest.mark.parametrize(
    ("event_type", "source", "pointer"),
    [
        ("order.created", "shop-1", ""),
        ("order.created.x", "shop-1", "/event_type"),
        ("xorder.created", "shop-1", "/event_type"),
        ("order.created\n", "shop-1", "/event_type"),
        ("order.created", "shop-", "/source"),
        ("order.created", "shop-1\nshop-1", "/source"),
    ],
)
def test_the_whole_of_it_must_match(event_type: str, source: str, pointer: str) -> None:
    names = Names(r"order\.[a-z]+|user", "shop-[0-9]+")
    if not pointer:
        names.check(event_type, source)
        return
    with pytest.raises(Rejected, match=f"{pointer}: must match") as refused:
        names.check(event_type, source)
    assert refused.value.flaws[0].pointer == pointer


def test_without_a_pattern_anything_does() -> None:
    Names("", "").check("any thing", "ü")


@pytest.mark.parametrize("pattern", ["(", "a)(b", "(?=x)", "x" * 513])
def test_what_is_no_pattern_stops_the_start(pattern: str) -> None:
    with pytest.raises(Misconfigured, match="TAS_EVENT_TYPE_PATTERN"):
        Names(pattern, "")
    with pytest.raises(Misconfigured, match="TAS_SOURCE_PATTERN"):
        Names("", pattern)


async def test_over_both_lanes(nats: NatsServer, express: bool) -> None:
    good, bad = b'{"event_type":"order.created","source":"b"}', b'{"event_type":"Order","source":"b"}'
    async with serving(nats.url, express=express, event_type_pattern=r"[a-z.]+") as rig:
        found = await rig.post(bad)
        assert (found.status, found.body["code"]) == (400, "INVALID_EVENT")
        assert found.body["errors"] == [{"pointer": "/event_type", "detail": "must match [a-z.]+"}]
        batch = await rig.post(b"[%s,%s]" % (good, bad), BATCH)
        assert [each["status"] for each in batch.body["results"]] == ["accepted", "rejected"]
        assert len(await rig.stored()) == 1


def test_the_documented_pattern() -> None:
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    [pattern] = re.findall("^export TAS_EVENT_TYPE_PATTERN='(.*)'$", text, re.MULTILINE)
    names = Names(pattern, "")
    names.check("order.created_v2", "any")
    for refused in ("Order", "order..created", ".order", "order.>"):
        with pytest.raises(Rejected):
            names.check(refused, "any")
