"""One event sent to a target because somebody asks to: what is answered, and that nothing follows from it."""

import asyncio
import time
from typing import Any

import pytest
from msgspec import Raw

from tas_mcp import subjects
from tas_mcp.errors import Unavailable
from tas_mcp.messages import Event, Trial, decode_trial, encode
from tests.services.forward.rig import Rig, forwarding
from tests.shared.rig import POLL_SECONDS

GOLD = {"id": "gold", "conditions": [{"field": "data.tier", "operator": "eq", "value": "gold"}]}
ADDED = {**GOLD, "transform": {"add_fields": {"data.seen": True}}}
WRITTEN = {**GOLD, "transform": {"template": '{"event_id": "{{ event.event_id }}", "said": 1}'}}
FAILING = {**GOLD, "transform": {"jsonata": "$error('no')"}}


def event(tier: str = "gold") -> Event:
    data = Raw(encode({"tier": tier}))
    return Event(event_id="t1", event_type="tas.test", source="tas", timestamp=1, accepted_at=1, data=data)


async def tried(rig: Rig, target_id: str, tier: str = "gold") -> Trial:
    """Ask as soon as somebody listens."""
    deadline = time.monotonic() + POLL_SECONDS
    while True:
        try:
            answer = await rig.broker.connection.request(subjects.trial(target_id), encode(event(tier)), 10)
        except Unavailable:
            assert time.monotonic() < deadline, "nobody listens"
            await asyncio.sleep(0.01)
        else:
            return decode_trial(answer.data)


@pytest.mark.parametrize("state", [{}, {"enabled": False}, {"paused": True}])
async def test_a_target_gets_one_event_whatever_its_state(rig: Rig, state: dict[str, Any]) -> None:
    await rig.save("a", **state)
    async with forwarding(rig):
        trial = await tried(rig, "a")
    assert (trial.delivered, trial.status, trial.error, trial.matched, trial.rule_id) == (True, 200, "", True, "")
    assert trial.duration_ms > 0
    assert rig.receiver.got("a") == ["t1"]


async def test_of_two_replicas_one_answers(rig: Rig) -> None:
    await rig.save("a")
    async with forwarding(rig), forwarding(rig):
        for _ in range(5):
            await tried(rig, "a")
    assert len(rig.receiver.got("a")) == 5


async def test_a_failure_is_told_and_nothing_follows(rig: Rig) -> None:
    await rig.save("a")
    rig.receiver.statuses["a"] = lambda _: 500
    async with forwarding(rig):
        trial = await tried(rig, "a")
    assert (trial.delivered, trial.status, trial.error) == (False, 500, "the target answered 500: so it is")
    assert len(rig.receiver.got("a")) == 1
    assert (await rig.queued("a"), await rig.parked("a"), await rig.dead("a"), await rig.outcomes("a")) == (0, [], [], [])


async def test_a_target_that_does_not_answer_is_waited_for_as_long_as_its_timeout(rig: Rig) -> None:
    await rig.save("a", config={"timeout": "100ms"})
    async with forwarding(rig):
        rig.receiver.held["a"] = held = asyncio.Event()
        trial = await tried(rig, "a")
        held.set()
    assert (trial.delivered, trial.status) == (False, 0)
    assert trial.error == "no answer within 100ms"


@pytest.mark.parametrize(
    ("rule", "tier", "matched", "body"),
    [
        (ADDED, "gold", True, {"tier": "gold", "seen": True}),
        (ADDED, "iron", False, {"tier": "iron"}),
    ],
)
async def test_the_transform_is_applied_where_a_rule_matches(
    rig: Rig, rule: dict[str, Any], tier: str, matched: bool, body: dict[str, Any]
) -> None:
    await rig.save("a", rules=[rule], config={"format": "data"})
    async with forwarding(rig):
        trial = await tried(rig, "a", tier)
    assert (trial.delivered, trial.matched, trial.rule_id) == (True, matched, "gold" if matched else None)
    assert [got for _, _, got in rig.receiver.seen] == [body]


async def test_a_templates_text_is_what_is_sent(rig: Rig) -> None:
    await rig.save("a", rules=[WRITTEN])
    async with forwarding(rig):
        assert (await tried(rig, "a")).delivered
    assert [got for _, _, got in rig.receiver.seen] == [{"event_id": "t1", "said": 1}]


async def test_a_transform_that_fails_sends_nothing(rig: Rig) -> None:
    await rig.save("a", rules=[FAILING])
    async with forwarding(rig):
        trial = await tried(rig, "a")
    assert (trial.delivered, trial.status, trial.matched) == (False, 0, True)
    assert trial.error.startswith("the transform failed: ")
    assert rig.receiver.seen == []


async def test_a_target_that_is_not_there(rig: Rig) -> None:
    async with forwarding(rig):
        trial = await tried(rig, "a")
    assert (trial.delivered, trial.error) == (False, "there is no target 'a'")


async def test_without_a_replica_nobody_answers(rig: Rig) -> None:
    with pytest.raises(Unavailable, match="nobody answers"):
        await rig.broker.connection.request(subjects.trial("a"), encode(event()), 10)
