"""A run under faults, from the first event to the verdict: load, kills, healing, drain, dead letters, checker."""

import asyncio
import base64
import hashlib
import hmac
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.checker import Dead, Delivery, Verdict, judge
from tests.chaos.faults import Nemesis, plan
from tests.chaos.load import SOURCE, Load
from tests.e2e.receiver import Received, Receiver, Reply, digest, receiving
from tests.e2e.system import TARGETS, System, running

DRAIN_SECONDS = 90.0
PROGRESS_SECONDS = 10.0
EDIT_SECONDS = 2.0
FLAKY = 0.15
KEY = b"a secret that only this test knows"
POISON = "_process"

Say = Callable[[str], None]


class Result(NamedTuple):
    """What came of it, and the figures that say how much it is worth."""

    verdict: Verdict
    faults: Counter[str]
    deaths: list[str]
    statuses: Counter[str]
    unasked: int
    refused: int
    poisoned: int
    edits: int
    seconds: float
    drain_seconds: float

    @property
    def ok(self) -> bool:
        return self.verdict.ok and not self.unasked and not self.deaths

    def __str__(self) -> str:
        kills = sum(number for name, number in self.faults.items() if name.startswith("kill"))
        rows = [
            f"kills {kills}; " + ", ".join(f"{name} {number}" for name, number in sorted(self.faults.items())),
            "answers " + ", ".join(f"{name} {number}" for name, number in sorted(self.statuses.items())),
            f"answers to no request {self.unasked}, deliveries refused by a target {self.refused}, "
            f"events set aside as poison {self.poisoned}, edits {self.edits}",
            f"{self.seconds:.0f} s under load, drained {self.drain_seconds:.1f} s after the healing",
            str(self.verdict),
        ]
        return "\n".join(rows + [f"  ended by itself: {death}" for death in self.deaths])


def documents(receiver: Receiver) -> list[dict[str, Any]]:
    """The targets. ``load.targets`` says the same in other words."""
    retry = {"schedule": ["200ms", "400ms", "800ms"]}
    signed = {"signing_secret": "whsec_" + base64.b64encode(KEY).decode(), "retry": {"schedule": ["500ms"] * 20}}
    config = {"timeout": "5s", "retry": {"schedule": ["500ms"] * 20}}
    return [
        target(receiver, "orders", signed, [{"field": "event_type", "operator": "starts_with", "value": "order."}]),
        target(receiver, "big", {"retry": retry}, [{"field": "data.amount", "operator": "gt", "value": 500}]),
        target(
            receiver,
            "people",
            config,
            [
                {"field": "event_type", "operator": "in", "value": ["user.created", "user.deleted"]},
                {"field": "data.region", "operator": "eq", "value": "eu"},
            ],
        ),
    ]


def target(receiver: Receiver, name: str, config: dict[str, Any], conditions: list[dict[str, Any]]) -> dict[str, Any]:
    rules = [{"id": "only", "conditions": conditions}]
    return {"id": name, "type": "webhook", "endpoint": receiver.url(name), "config": config, "rules": rules}


def hashed(name: str, headers: Mapping[str, str], body: bytes) -> str:
    """The hash of a delivery, or what is wrong with its headers: the checker calls that corrupt."""
    if name == "orders":
        signed = f"{headers.get('webhook-id', '')}.{headers.get('webhook-timestamp', '')}.".encode() + body
        wanted = "v1," + base64.b64encode(hmac.digest(KEY, signed, "sha256")).decode()
        if headers.get("webhook-signature") != wanted:
            return "bad signature"
    return digest(name, headers, body)


async def run(folder: Path, kills: int, seed: int, rate: float, say: Say) -> Result:
    """The whole run. ``say`` gets the plan, then the progress."""
    faults = plan(seed, kills)
    say(f"seed {seed}, {kills} kills, {rate:g} events/s; the plan:")
    for start in range(0, len(faults), 6):
        say("  " + "  ".join(map(str, faults[start : start + 6])))
    dice = random.Random(seed + 1)
    async with receiving(hashed, keep=False) as receiver, running(folder) as system:
        receiver.script("big", lambda _: Reply(500 if dice.random() < FLAKY else 200))
        receiver.script("people", lambda _: Reply(200, dice.choice((0.0, 0.0, 0.02, 0.1))))
        for document in documents(receiver):
            await system.put(document)
        load = Load(system.http_port, rate, seed)
        nemesis, began = Nemesis(system, load.burst, lambda: len(receiver.received)), time.monotonic()
        progress = _progress(load, receiver, nemesis, kills, say)
        async with editing(system, documents(receiver)[2]) as edits, load.running():
            await nemesis.run(faults, progress)
            await system.ready(seconds=60)
        seconds, healed = time.monotonic() - began, time.monotonic()
        await system.drained(DRAIN_SECONDS)
        drained = time.monotonic() - healed
        letters = await system.dead_letters()
    return Result(
        verdict=judge(load.attempts, load.answers, _deliveries(receiver.received), _dead(letters, load)),
        faults=nemesis.done,
        deaths=nemesis.deaths,
        statuses=load.statuses,
        unasked=load.unasked,
        refused=sum(each.status != 200 for each in receiver.received),
        poisoned=sum(letter["target_id"] == POISON for letter in letters),
        edits=edits["done"],
        seconds=seconds,
        drain_seconds=drained,
    )


@asynccontextmanager
async def editing(system: System, document: dict[str, Any]) -> AsyncIterator[Counter[str]]:
    """Change the target all the time, in what is of no consequence; what the API says under faults is of none either."""
    done: Counter[str] = Counter()

    async def edit() -> None:
        while True:
            config = {**document["config"], "concurrency": 16 + done["done"] % 48}
            answer = await system.try_call("PUT", f"{TARGETS}/{document['id']}", json={**document, "config": config})
            done["done"] += answer is not None and answer.status == 200
            await asyncio.sleep(EDIT_SECONDS)

    task = asyncio.create_task(edit())
    try:
        yield done
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _deliveries(received: list[Received]) -> list[Delivery]:
    """What the targets took. The webhook-id must be the event's, else the delivery is corrupt."""
    return [
        Delivery(
            each.target, each.event_id, each.payload_hash if each.webhook_id == webhook_id(each.event_id) else "bad webhook-id"
        )
        for each in received
        if each.status == 200
    ]


def webhook_id(event_id: str) -> str:
    return "evt_" + hashlib.blake2b(f"{SOURCE}\0{event_id}".encode(), digest_size=16).hexdigest()


def _dead(letters: list[dict[str, Any]], load: Load) -> list[Dead]:
    """The dead letters; an event that was set aside as poison is dead for all its targets."""
    found = []
    for letter in letters:
        key = letter["event_id"]
        names = [letter["target_id"]]
        if letter["target_id"] == POISON and key in load.attempts:
            names = sorted(load.attempts[key].targets)
        found += [Dead(name, key) for name in names]
    return found


def _progress(load: Load, receiver: Receiver, nemesis: Nemesis, kills: int, say: Say) -> Callable[[], None]:
    """Says, now and then, how far it is."""
    began = last = time.monotonic()

    def tell() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            done = sum(number for name, number in nemesis.done.items() if name.startswith("kill"))
            say(
                f"{now - began:5.0f} s  kills {done}/{kills}  sent {load.events:,}  acknowledged {load.stored:,}"
                f"  received {len(receiver.received):,}"
            )

    return tell
