"""Trying out rules, targets and endpoints over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw

from tas_mcp import status, subjects
from tas_mcp.broker import Message
from tas_mcp.messages import Event, Trial, decode_event, encode
from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import TARGETS, Rig, running, target, until

TEST = "/api/v1/rules:test"
EXPLAIN = "/api/v1/events:explain"
BACKTEST = "/api/v1/rules:backtest"
EVENT = {"event_id": "e1", "event_type": "order.created", "source": "shop", "timestamp": 1, "data": {"amount": 250}}


def rule(least: int, **changes: Any) -> dict[str, Any]:
    """Takes orders of at least so much."""
    conditions = [{"field": "data.amount", "operator": "gte", "value": least}]
    return {"id": "big", "conditions": conditions, **changes}


@asynccontextmanager
async def answering(rig: Rig, trial: Trial) -> AsyncIterator[list[Message]]:
    """What forward does: answer every trial."""
    asked: list[Message] = []

    def answer(message: Message) -> None:
        asked.append(message)
        rig.connection.send(message.reply, encode(trial))

    async with rig.connection.subscribed(subjects.ALL_TRIALS, answer, "forward"):
        yield asked


async def test_a_target_is_tested_by_forward(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target(enabled=False))
    trial = Trial(False, 500, 1.5, "the target answered 500", True, "big")
    async with answering(rig, trial) as asked:
        given = await rig.call("POST", f"{TARGETS}/orders/test", json={"event": EVENT})
        made_up = await rig.call("POST", f"{TARGETS}/orders/test")
    assert given.body == {
        "delivered": False,
        "status": 500,
        "duration_ms": 1.5,
        "error": "the target answered 500",
        "matched": True,
        "rule_id": "big",
    }
    assert made_up.status == 200
    first, second = (decode_event(message.data) for message in asked)
    assert (asked[0].subject, first.event_id, bytes(first.data)) == ("tas.rpc.test.orders", "e1", b'{"amount":250}')
    assert (second.event_type, second.source) == ("tas.test", "tas")


async def test_without_forward_a_test_is_to_be_tried_later(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target())
    answer = await rig.call("POST", f"{TARGETS}/orders/test")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert "no forward replica answers" in answer.body["detail"]


async def test_a_test_of_what_is_not_there(rig: Rig) -> None:
    assert (await rig.call("POST", f"{TARGETS}/orders/test")).status == 404
    await rig.publisher.store(subjects.bucket_key(subjects.TARGETS_BUCKET, "odd"), b"{")
    assert (await rig.call("POST", f"{TARGETS}/odd/test")).status == 409


async def test_a_rule_is_tried_on_an_event(rig: Rig) -> None:
    answer = await rig.call("POST", TEST, json={"rule": rule(100), "event": EVENT})
    assert (answer.status, answer.body["matched"], answer.body["rule_id"]) == (200, True, "big")
    assert answer.body["output"]["event"]["data"] == {"amount": 250}
    assert answer.body["why"]["rules"][0]["conditions"][0]["saw"] == 250
    answer = await rig.call("POST", TEST, json={"rule": rule(300), "event": EVENT})
    assert (answer.body["matched"], answer.body["rule_id"], answer.body["output"]) == (False, None, None)


@pytest.mark.parametrize(
    ("transform", "output"),
    [
        (
            {"template": "{{ event.data.amount }} EUR", "content_type": "text/plain"},
            {"body": "250 EUR", "content_type": "text/plain"},
        ),
        ({"jsonata": "$error('no')"}, {"error": "jsonata"}),
    ],
)
async def test_the_output_is_what_the_target_would_get(rig: Rig, transform: Any, output: Any) -> None:
    answer = await rig.call("POST", TEST, json={"rule": rule(100, transform=transform), "event": EVENT})
    assert answer.status == 200
    found = answer.body["output"]
    assert found == output or ("error" in output and output["error"] in found["error"])


async def test_a_target_is_tried_with_all_of_its_rules(rig: Rig) -> None:
    rules = [rule(100, id="some"), rule(200, id="big", priority=5)]
    answer = await rig.call("POST", TEST, json={"target": target(rules=rules), "event": EVENT})
    assert answer.body["rule_id"] == "big"


async def test_a_target_as_it_was_shown_can_be_tried(rig: Rig) -> None:
    secret = {"signing_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    await rig.call("POST", TARGETS, json=target(config=secret))
    shown = (await rig.call("GET", f"{TARGETS}/orders")).body
    del shown["status"]
    assert (await rig.call("POST", TEST, json={"target": shown, "event": EVENT})).status == 200


@pytest.mark.parametrize(
    ("body", "status", "pointers"),
    [
        ({"rule": {"conditions": [{"field": "x", "operator": "eqq"}], "prio": 1}, "event": EVENT}, 422, None),
        ({"rule": {"conditions": [{"field": "source", "operator": "in", "value": 5}]}, "event": EVENT}, 422,
         {"/rule/conditions/0/value"}),
        ({"target": target(endpoint="x"), "event": EVENT}, 422, {"/target/endpoint"}),
        ({"rule": rule(1), "event": {"event_type": "a"}}, 400, {"/event/source"}),
        ({"rule": rule(1), "event": 5}, 400, {"/event"}),
        ({"rule": rule(1), "target": target(), "event": EVENT}, 400, {""}),
        ({"event": EVENT}, 400, {""}),
        ({"rule": rule(1)}, 400, {"/event"}),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said_with_its_place(rig: Rig, body: Any, status: int, pointers: set[str] | None) -> None:
    answer = await rig.call("POST", TEST, json=body)
    found = {flaw["pointer"] for flaw in answer.body["errors"]}
    assert answer.status == status
    assert found == pointers or (pointers is None and all(pointer.startswith("/rule") for pointer in found))


async def test_an_event_is_explained_for_all_targets(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target("all"))
    await rig.call("POST", TARGETS, json=target("big", rules=[rule(100)]))
    await rig.call("POST", TARGETS, json=target("bigger", rules=[rule(1000)]))
    await rig.call("POST", TARGETS, json=target("off", enabled=False))
    last = await rig.publisher.store(subjects.bucket_key(subjects.TARGETS_BUCKET, "odd"), b"{")
    answer = await rig.call("POST", EXPLAIN, json={"event": EVENT})
    assert answer.body["revision"] == last.seq
    found = {each["target_id"]: each for each in answer.body["targets"]}
    assert {name: (each["matched"], each["rule_id"]) for name, each in found.items()} == {
        "all": (True, ""), "big": (True, "big"), "bigger": (False, None), "odd": (False, None), "off": (False, None),
    }  # fmt: skip
    assert found["big"]["output"]["event"]["event_id"] == "e1"
    assert found["off"]["why"]["because"] == "not matched: the target is disabled"
    assert "cannot be read" in found["odd"]["why"]["because"]
    await rig.call("PUT", f"{TARGETS}/bigger", json=target("bigger", rules=[rule(250)]))
    await rig.call("DELETE", f"{TARGETS}/all")
    changed = (await rig.call("POST", EXPLAIN, json={"event": EVENT})).body
    assert {each["target_id"] for each in changed["targets"] if each["matched"]} == {"big", "bigger"}
    gone = status.encode(status.Status(gone=True))
    await rig.publisher.store(subjects.bucket_key(subjects.STATUS_BUCKET, "bigger"), gone)
    changed = (await rig.call("POST", EXPLAIN, json={"event": EVENT})).body
    found = {each["target_id"]: each for each in changed["targets"]}
    assert (found["bigger"]["matched"], found["big"]["matched"]) == (False, True)
    assert "it answered 410" in found["bigger"]["why"]["because"]


async def store(rig: Rig, *amounts: Any) -> None:
    for n, amount in enumerate(amounts, 1):
        stored = Event(
            event_id=f"e{n}", event_type="order", source="s", timestamp=1, accepted_at=1, data=Raw(encode({"amount": amount}))
        )
        await rig.publisher.store(subjects.events("order"), encode(stored))


async def test_a_backtest_compares_with_what_is_in_force(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target(rules=[rule(3)]))
    await store(rig, 1, 2, 3, 4, "x")
    changed = target(rules=[{"id": "new", "conditions": [{"field": "data.amount", "operator": "lte", "value": 3}]}])
    answer = await rig.call("POST", BACKTEST, json={"target": changed})
    assert answer.status == 200
    examples = answer.body.pop("examples")
    assert answer.body == {
        "evaluated": 5, "matched": 3, "errors": 0, "newly_matched": 2, "no_longer_matched": 1, "complete": True,
    }  # fmt: skip
    assert [(each["seq"], each["event_id"]) for each in examples["newly_matched"]] == [(1, "e1"), (2, "e2")]
    (gone,) = examples["no_longer_matched"]
    assert gone["why"]["rules"][0]["conditions"][0]["saw"] == 4


async def test_for_a_rule_a_new_and_a_disabled_target_every_match_is_new(rig: Rig) -> None:
    await rig.call("POST", TARGETS, json=target("off", enabled=False))
    await store(rig, *range(15))
    for body in ({"rule": rule(0)}, {"target": target("new")}, {"target": target("off")}):
        answer = (await rig.call("POST", BACKTEST, json=body)).body
        assert (answer["matched"], answer["newly_matched"], len(answer["examples"]["newly_matched"])) == (15, 15, 10)


async def test_a_transform_that_fails_and_an_event_that_cannot_be_read_are_errors(rig: Rig) -> None:
    await store(rig, 0, 5)
    await rig.publisher.store(subjects.events("odd"), b"{")
    failing = rule(0, transform={"jsonata": "amount = 0 ? 1 : $error('no')"})
    answer = (await rig.call("POST", BACKTEST, json={"rule": failing})).body
    assert (answer["evaluated"], answer["matched"], answer["errors"]) == (3, 2, 2)
    assert [each["seq"] for each in answer["examples"]["errors"]] == [2, 3]


async def test_the_span_of_a_backtest(rig: Rig) -> None:
    await store(rig, 1, 2)
    middle = await _between(rig)
    await store(rig, 3, 4, 5)
    for span, evaluated in (
        ({"last": 2}, 2), ({"last": 99}, 5), ({"from": middle}, 3), ({"to": middle}, 2), ({"from": 0}, 5),
        ({"from": 4102444800}, 0), ({"from": middle, "to": "2100-01-01T00:00:00+02:00"}, 3), ({"from": middle, "to": middle}, 0),
    ):  # fmt: skip
        answer = (await rig.call("POST", BACKTEST, json={"rule": rule(0), **span})).body
        assert (answer["evaluated"], answer["complete"]) == (evaluated, True), span


async def _between(rig: Rig) -> str:
    """A time just after all that is stored."""
    found = (await rig.jetstream.stream_info(subjects.EVENTS))["state"]["last_ts"]
    return (datetime.fromisoformat(found) + timedelta(microseconds=1)).isoformat()


@pytest.mark.parametrize(
    ("span", "pointer"),
    [
        ({"last": 0}, "/last"), ({"last": 100_001}, "/last"), ({"last": 5, "from": 1}, "/last"), ({"from": "yesterday"}, "/from"),
        ({"to": "2026-01-01T00:00:00"}, "/to"), ({"to": 10**20}, "/to"), ({"until": 1}, ""),
    ],
)  # fmt: skip
async def test_a_span_that_is_none(rig: Rig, span: Any, pointer: str) -> None:
    answer = await rig.call("POST", BACKTEST, json={"rule": rule(0), **span})
    assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")
    assert pointer in answer.body["errors"][0]["pointer"]


async def test_what_is_too_much_is_cut_and_the_answer_says_so(nats: NatsServer) -> None:
    async with running(nats.url, backtest_events=3) as rig:
        await until(lambda: ready(rig))
        await store(rig, 1, 2, 3, 4, 5)
        answer = (await rig.call("POST", BACKTEST, json={"rule": rule(0), "from": 0})).body
        assert (answer["evaluated"], answer["complete"]) == (3, False)
    async with running(nats.url, backtest_seconds=1e-9) as rig:
        await until(lambda: ready(rig))
        answer = (await rig.call("POST", BACKTEST, json={"rule": rule(0)})).body
        assert (answer["evaluated"], answer["complete"]) == (1, False)


async def test_one_backtest_at_a_time(rig: Rig) -> None:
    await store(rig, *range(50))
    body = {"rule": rule(0)}
    answers = await asyncio.gather(*(rig.call("POST", BACKTEST, json=body) for _ in range(5)))
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert all("Retry-After" in answer.headers for answer in refused)
    assert (await rig.call("POST", BACKTEST, json=body)).status == 200
