"""How much may be sent: in made-up time, then over both lanes."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.rates import KEPT, Addresses, Allowance, Rates, Shares, Types
from tas_mcp.callers import SCOPES, Caller
from tas_mcp.errors import Overloaded
from tests.nats_server import NatsServer
from tests.services.ingest.rig import BATCH, GOOD, Rig, serving

ANN, BOB = Caller("ann", SCOPES), Caller("bob", SCOPES)
ALONE = Shares(lambda: 1)
NONE = Allowance()


def passing(admit: Callable[[], None]) -> bool:
    try:
        admit()
    except Overloaded:
        return False
    return True


def admitted(rates: Rates, caller: Caller, now: float, events: int = 1, size: int = 100) -> bool:
    return passing(lambda: rates.admit(caller, events, size, now))


@pytest.mark.parametrize("allowance", [Allowance(requests=5), Allowance(events=5), Allowance(bytes=500)])
def test_each_caller_has_its_own(allowance: Allowance) -> None:
    rates = Rates(allowance, NONE, 1, ALONE)
    assert [admitted(rates, ANN, 100.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert admitted(rates, BOB, 100.0)
    assert admitted(rates, ANN, 100.21)
    assert [admitted(rates, ANN, 200.0) for _ in range(7)] == [True] * 5 + [False] * 2


def test_all_callers_share_the_total() -> None:
    rates = Rates(NONE, Allowance(requests=5), 1, ALONE)
    assert [admitted(rates, caller, 100.0) for caller in (ANN, BOB, ANN, BOB, ANN, BOB)] == [True] * 5 + [False]


def test_what_one_limit_refuses_the_others_do_not_count() -> None:
    rates = Rates(Allowance(requests=1), Allowance(requests=2), 1, ALONE)
    assert [admitted(rates, ANN, 100.0) for _ in range(9)] == [True] + [False] * 8
    assert admitted(rates, BOB, 100.0)


def test_a_batch_larger_than_the_bucket_is_taken_and_the_next_waits_for_it() -> None:
    rates = Rates(Allowance(events=10), NONE, 1, ALONE)
    assert admitted(rates, ANN, 100.0, events=50)
    with pytest.raises(Overloaded) as refused:
        rates.admit(ANN, 1, 1, 100.0)
    assert 4 < refused.value.retry_after <= 5
    assert [admitted(rates, ANN, 104.0), admitted(rates, ANN, 105.0)] == [False, True]


def test_the_bucket_holds_some_seconds() -> None:
    rates = Rates(Allowance(requests=2), NONE, 10, ALONE)
    assert sum(admitted(rates, ANN, 100.0) for _ in range(50)) == 20


def test_a_refusal_names_the_limit() -> None:
    rates = Rates(Allowance(bytes=1000), NONE, 2, ALONE)
    rates.admit(ANN, 1, 5000, 100.0)
    with pytest.raises(Overloaded, match=r"ann may send 2000 bytes in 2 s: try again in 3 s") as refused:
        rates.admit(ANN, 1, 1, 100.0)
    assert refused.value.quota == ("caller-bytes", "content-bytes", 2000, 2)


def test_replicas_share_a_limit_and_are_counted_each_second() -> None:
    replicas = 2
    rates = Rates(Allowance(requests=10), NONE, 1, Shares(lambda: replicas))
    assert sum(admitted(rates, ANN, 100.0) for _ in range(20)) == 5
    replicas = 0
    assert sum(admitted(rates, ANN, 102.0) for _ in range(20)) == 10, "none is known: at least this one lives"


@given(
    st.builds(Allowance, st.integers(0, 20), st.integers(0, 20), st.integers(0, 2000)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 30), st.integers(1, 3000)), max_size=60),
)
def test_on_average_no_more_than_is_allowed(allowance: Allowance, requests: list[tuple[float, int, int]]) -> None:
    rates, now, passed = Rates(allowance, NONE, 1, ALONE), 100.0, []
    for pause, events, size in requests:
        now += pause
        if admitted(rates, ANN, now, events, size):
            passed.append((1, events, size))
    for index, allowed in enumerate((allowance.requests, allowance.events, allowance.bytes)):
        amounts = [each[index] for each in passed]
        assert not allowed or sum(amounts[:-1]) <= allowed * (now - 100.0 + 1) + 1e-6


def test_addresses() -> None:
    addresses = Addresses(2, 1, ALONE)

    def passes(client: str) -> bool:
        return passing(lambda: addresses.admit(client, 100.0))

    assert [passes("1.1.1.1") for _ in range(3)] == [True, True, False]
    assert [passes(f"2.2.2.{each}") for each in range(3)] == [True] * 3
    assert [passes(f"2001:db8::{each}") for each in range(3)] == [True, True, False], "one subscriber has them all"


def test_an_attack_from_many_addresses_takes_bounded_memory() -> None:
    addresses = Addresses(1, 1, ALONE)
    for each in range(3 * KEPT):
        addresses.admit(f"1.{each >> 16}.{each >> 8 & 255}.{each & 255}", 100.0)
    assert len(addresses._rates) <= 2 * KEPT


def test_new_event_types() -> None:
    types = Types(3, ALONE)

    def learnt(caller: Caller, event_type: str, now: float) -> bool:
        return types.known(event_type) or passing(lambda: types.admit(caller, event_type, now))

    assert [learnt(ANN, f"a{each}", 100.0) for each in range(4)] == [True] * 3 + [False]
    assert learnt(ANN, "a0", 100.0), "it is known"
    assert learnt(BOB, "b", 100.0)
    assert learnt(ANN, "b", 100.0)
    assert [learnt(ANN, "c", 1250.0), learnt(ANN, "c", 1350.0)] == [False, True]


# Over both lanes.


async def test_too_many_requests_are_429_and_told_when(nats: NatsServer, express: bool) -> None:
    async with serving(nats.url, express=express, rate_requests=1, rate_burst_seconds=2) as rig:
        found = [await rig.post(GOOD) for _ in range(3)]
        assert [each.status for each in found] == [200, 200, 429]
        refused = found[-1]
        assert refused.body["code"] == "RATE_LIMITED"
        assert refused.headers["retry-after"] == refused.headers["ratelimit"].partition("t=")[2] == "1"
        assert refused.headers["ratelimit-policy"] == '"caller-requests";q=2;w=2;qu="requests"'
        assert len(await rig.stored()) == 2


async def test_a_batch_is_one_request_and_refused_as_a_whole(nats: NatsServer, express: bool) -> None:
    async with serving(nats.url, express=express, rate_requests=10, rate_events=1) as rig:
        first = await rig.post(b"[%s,%s]" % (GOOD, GOOD), BATCH)
        assert (first.status, first.body["accepted"]) == (200, 2), "a caller at rest may send a batch of any size"
        second = await rig.post(b"[%s,%s]" % (GOOD, GOOD), BATCH)
        assert (second.status, second.body["code"]) == (429, "RATE_LIMITED")
        assert second.headers["ratelimit-policy"].startswith('"caller-events"')
        assert len(await rig.stored()) == 2


@pytest.mark.parametrize(
    ("settings", "sent", "statuses"),
    [
        ({}, ["1.1.1.1", "2.2.2.2"], [200, 429]),
        ({"trusted_proxies": "127.0.0.1"}, ["1.1.1.1", "2.2.2.2", "3.3.3.3, 2.2.2.2"], [200, 200, 429]),
        ({"trusted_proxies": "10.0.0.1"}, ["1.1.1.1", "2.2.2.2"], [200, 429]),
    ],
)
async def test_an_address(
    nats: NatsServer, express: bool, settings: dict[str, Any], sent: list[str], statuses: list[int]
) -> None:
    async with serving(nats.url, express=express, rate_address_requests=1, **settings) as rig:
        headers = [{"Content-Type": "application/json", "X-Forwarded-For": each} for each in sent]
        found = [await rig.post(GOOD, headers=each) for each in headers]
        assert [each.status for each in found] == statuses
        assert found[-1].headers["ratelimit-policy"].startswith('"address-requests"')
        assert found[-1].body["request_id"]


async def new_type(rig: Rig, name: str) -> int:
    return (await rig.post(b'{"event_type":"%s","source":"test"}' % name.encode())).status


async def test_new_event_types_of_a_caller(nats: NatsServer, express: bool) -> None:
    async with serving(nats.url, express=express, rate_new_types=2) as rig:
        assert [await new_type(rig, name) for name in ("a", "b", "c", "a", "b")] == [200, 200, 429, 200, 200]
        found = await rig.post(b'[{"event_type":"d","source":"test"},%s]' % GOOD.replace(b"good", b"a"), BATCH)
        assert [each["status"] for each in found.body["results"]] == ["unavailable", "accepted"]
        assert found.body["results"][0]["error"]["code"] == "RATE_LIMITED"
