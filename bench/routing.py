"""(b) Routing: the process step without I/O, and through JetStream."""

import time
from statistics import median

from msgspec import Raw

from bench import load
from bench.generator import DATA
from bench.stage import OTHER, SYSTEM, stage
from bench.table import Row
from tas_mcp.messages import Delivery, Event, decode_event, encode
from tas_mcp.routing import Condition, Route, Rule, RuleBook, View, compile_rules

TARGETS = 10


def rules(number: int) -> list[Rule]:
    """A rule that one target in ten matches."""
    return [
        Rule(
            id="r",
            conditions=[
                Condition(field="event_type", operator="eq", value="order.created"),
                Condition(field="data.amount", operator="gt" if number == 0 else "lt", value=100),
                Condition(field="data.currency", operator="in", value=["EUR", "USD"]),
            ],
        )
    ]


def measure(seconds: float, rounds: int) -> list[Row]:
    return [_pure(seconds, rounds), _through(seconds)]


def _pure(seconds: float, rounds: int) -> Row:
    book = RuleBook.build(Route(f"t{number}", 1, compile_rules(rules(number))) for number in range(TARGETS))
    event = Event(
        event_id="e", event_type="order.created", source="bench", timestamp=1, accepted_at=1, data=Raw((DATA % 1).encode())
    )
    stored = encode(event)
    rates = []
    for _ in range(rounds):
        count, end = 0, time.perf_counter() + seconds / 2
        began = time.perf_counter()
        while time.perf_counter() < end:
            for _ in range(1000):
                for match in book.route(View(decode_event(stored))):
                    encode(Delivery(event=Raw(stored), event_seq=1, revision=match.revision, rule_id=match.rule_id))
            count += 1000
        rates.append(count / (time.perf_counter() - began))
    return Row(what=f"process: step without I/O, {TARGETS} targets, 1 match", value=median(rates), unit="events/s")


def _through(seconds: float) -> Row:
    events = int(25_000 * seconds)
    with stage() as here:
        here.broker(OTHER)
        for number in range(TARGETS):
            document = {
                "id": f"t{number}", "type": "http", "endpoint": "http://127.0.0.1:9/", "rules": [
                    {"id": "r", "conditions": [
                        {"field": c.field, "operator": c.operator, "value": c.value} for c in rules(number)[0].conditions or []
                    ]}
                ],
            }  # fmt: skip
            here.target(document)
        here.service("ingest", SYSTEM)
        here.ready("ingest")
        load.generate(
            here, here.http_port, batch=100, path="/api/v1/events/batch", count=events // 100, connections=8, seconds=120
        )
        here.stop("ingest")
        here.service("process", SYSTEM)
        marks: list[tuple[float, int]] = []
        end = time.monotonic() + 30 + 10 * seconds
        while time.monotonic() < end and (not marks or marks[-1][1] < events):
            marks.append((time.monotonic(), here.stats()["streams"]["DELIVERIES"]["messages"]))
            time.sleep(0.1)
        begun = [mark for mark in marks if 0 < mark[1] <= events]
        (t0, n0), (t1, n1) = begun[0], begun[-1]
    note = f"{events} events, {events - n1} missing"
    return Row(
        what=f"process: through JetStream, {TARGETS} targets, 1 match", value=(n1 - n0) / (t1 - t0), unit="events/s", note=note
    )
