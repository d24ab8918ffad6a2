"""Failed authentications in the audit log: none is lost, and few records are written."""

import json
import time
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp import subjects
from tas_mcp.audit import Audit
from tas_mcp.auth.attempts import KEPT, SINGLED_OUT, Attempts, Tally
from tas_mcp.auth.failures import Failure
from tas_mcp.messages import AuditRecord
from tas_mcp.v1 import mcp_pb2, mcp_pb2_grpc
from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import running as control
from tests.services.ingest.rig import serving
from tests.shared.rig import Broker, linked, until

ADDRESSES = st.integers(0, 20).map("10.0.0.{}".format)
FAILURES = st.builds(Failure, st.sampled_from(("missing", "expired")), st.just("no"), st.text(max_size=2), ADDRESSES)


def failure(address: str = "10.0.0.1", reason: Any = "missing", name: str = "") -> Failure:
    return Failure(reason, "no", name, address)


def told(*failures: Failure) -> list[AuditRecord]:
    tally = Tally()
    for number, each in enumerate(failures, 1):
        tally.add(each, float(number))
    return list(tally.records())


def test_one_failure_is_told_as_it_was() -> None:
    [record] = told(failure(reason="expired", name="k_1"))
    assert (record.kind, record.action, record.id, record.author) == ("authentication", "failed", "k_1", "anonymous")
    assert record.address == "10.0.0.1"
    assert record.details == {"reason": "expired", "count": 1, "first_at": 1.0, "last_at": 1.0}


def test_nothing_is_told_of_nothing() -> None:
    assert told() == []


@given(st.lists(FAILURES, max_size=100))
def test_every_failure_is_in_exactly_one_of_few_records(failures: list[Failure]) -> None:
    records = told(*failures)
    assert len(records) <= SINGLED_OUT + 1
    assert sum(record.details["count"] for record in records) == len(failures)


def test_the_most_frequent_are_singled_out() -> None:
    loud = [failure(f"10.0.0.{n}") for n in range(4) for _ in range(3)]
    quiet = [failure(f"10.0.1.{n}", "expired") for n in range(9)]
    *single, rest = told(*quiet, *loud)
    assert {(each.address, each.details["count"]) for each in single} == {(f"10.0.0.{n}", 3) for n in range(4)}
    assert (rest.address, rest.details["count"], rest.details["addresses"]) == ("", 9, 9)
    assert rest.details["reasons"] == {"expired": 9}


def test_more_addresses_than_are_told_apart_are_still_counted() -> None:
    records = told(*(failure(f"10.{n >> 8}.{n & 255}.1") for n in range(3 * KEPT)))
    assert sum(record.details["count"] for record in records) == 3 * KEPT
    assert records[-1].details["addresses_not_counted"] is True


async def records(broker: Broker) -> list[dict[str, Any]]:
    return [json.loads(message.data) for message in await broker.messages(subjects.AUDIT)]


async def test_the_first_is_told_at_once_and_the_rest_together_at_the_latest_when_it_ends(nats: NatsServer) -> None:
    async with linked(nats.url) as broker:
        await broker.lay_out()
        attempts = Attempts(Audit(broker.publisher, "ingest"), short=3600.0)
        async with attempts.running():
            attempts.tell(failure())
            await until(lambda: records(broker))
            for _ in range(500):
                attempts.tell(failure())
        assert [each["details"]["count"] for each in await records(broker)] == [1, 500]


async def test_while_it_goes_on_it_is_told_ever_more_seldom(nats: NatsServer) -> None:
    """By pauses of 0.02, 0.04, 0.08, 0.16, 0.32, 0.32 and 0.32 s at least."""
    async with linked(nats.url) as broker:
        await broker.lay_out()
        attempts = Attempts(Audit(broker.publisher, "ingest"), short=0.02, long=0.32)
        began = time.monotonic()
        async with attempts.running():
            while len(await records(broker)) < 8:
                attempts.tell(failure())
            took = time.monotonic() - began
    assert took > 1.2


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "planted-secret"}, {"Authorization": "Bearer planted-secret"}])
async def test_every_way_in_tells_of_it_and_never_what_the_caller_came_with(nats: NatsServer, headers: dict[str, str]) -> None:
    async with control(nats.url, auth="keys") as managed:
        await until(lambda: ready(managed))
        async with serving(nats.url, auth="keys", lay_out=False) as events:
            assert (await events.post(b"{}", headers={"Content-Type": "application/json", **headers})).status == 401
            assert (await managed.call("GET", "/api/v1/stats", headers=headers)).status == 401
            found = await until(lambda: both(events.broker))
    assert {(each["kind"], each["action"], each["author"]) for each in found} == {("authentication", "failed", "anonymous")}
    assert {each["address"] for each in found} == {"127.0.0.1"}
    assert "planted" not in json.dumps(found)


PROXY: dict[str, Any] = {"auth": "keys", "trusted_proxies": "127.0.0.0/8"}
"""The client's address is what a proxy on this machine says."""


@pytest.mark.parametrize("way", ["express", "aiohttp", "stream", "grpc"])
async def test_behind_a_proxy_the_client_is_told_not_the_proxy(nats: NatsServer, way: str) -> None:
    said = {"X-Forwarded-For": "192.0.2.66, 203.0.113.9"}
    async with serving(nats.url, express=way == "express", **PROXY) as rig:
        if way == "stream":
            assert (await rig.session.get("/api/v1/events/stream", headers=said)).status == 401
        elif way == "grpc":
            async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.grpc_port}") as channel:
                stub = mcp_pb2_grpc.MCPServiceStub(channel)
                metadata = [(name.lower(), value) for name, value in said.items()]
                with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
                    await stub.IngestEvent(mcp_pb2.Event(), metadata=metadata)
        else:
            assert (await rig.post(b"{}", headers={"Content-Type": "application/json", **said})).status == 401
        [found] = await until(lambda: records(rig.broker))
    assert found["address"] == "203.0.113.9"


async def both(broker: Broker) -> list[dict[str, Any]]:
    """The records, once there are those of two services."""
    found = await records(broker)
    return found if len({each["writer"].partition("-")[0] for each in found}) == 2 else []
