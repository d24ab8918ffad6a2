"""(h) Rules alone: one rule on parsed data, and a thousand targets. Nothing but this process."""

import time
from collections.abc import Callable
from itertools import repeat
from statistics import median, quantiles
from typing import TypeVar

from msgspec import Raw

from bench.generator import DATA
from bench.routing import rules
from bench.table import Row
from tas_mcp.messages import Event
from tas_mcp.routing import Condition, Route, Rule, RuleBook, View, compile_rules

T = TypeVar("T")

TARGETS = 1_000
CEL = "event.event_type == 'order.created' && event.data.amount > 100.0 && event.data.currency in ['EUR', 'USD']"


def measure(seconds: float, rounds: int) -> list[Row]:
    return [*_one_rule(seconds, rounds), *(_thousand(*each, seconds, rounds) for each in THOUSANDS)]


def _one_rule(seconds: float, rounds: int) -> list[Row]:
    """Three conditions that all hold, beside the same in CEL and in Python as one would write it by hand."""
    view = View(_event())
    ours = compile_rules(rules(0)).decide
    cel = compile_rules([Rule(id="r", conditions=[Condition(operator="cel", value=CEL)])]).decide
    assert all(call(view) for call in (ours, cel, _by_hand))
    # In turns, so that an hour in which the machine is busy is the same for all.
    rates = [[_per_second(call, view, seconds / 6) for call in (ours, cel, _by_hand)] for _ in range(rounds)]
    rate, rate_of_cel, floor = (median(column) for column in zip(*rates, strict=True))
    p99 = median(_p99_us(ours, view) for _ in range(rounds))
    what, hand = "a rule of 3 conditions on parsed data", "Python by hand"
    return [
        Row(what=what, value=rate, unit="/s", must=1_000_000, floor=floor, floor_what=hand, note=f"floor: {hand}"),
        Row(what=f"{what}, p99", value=p99, unit="us", must=10, at_most=True),
        Row(what="the same conditions in CEL, bound once", value=rate_of_cel, unit="/s", floor=floor, floor_what=hand),
    ]


THOUSANDS: list[tuple[str, Callable[[int], Condition], float | None]] = [
    ("event_type eq", lambda i: Condition(field="event_type", operator="eq", value=f"order.{i}"), 20),
    ("source starts_with", lambda i: Condition(field="source", operator="starts_with", value=f"shop/{i}/"), 500),
    ("data.sent_ns eq (no index)", lambda i: Condition(field="data.sent_ns", operator="eq", value=i), None),
]


def _thousand(what: str, condition: Callable[[int], Condition], must: float | None, seconds: float, rounds: int) -> Row:
    """Each target has one rule; each event matches one of them, and comes undecoded."""
    book = RuleBook.build(Route(f"t{i}", 1, compile_rules([Rule(id="r", conditions=[condition(i)])])) for i in range(TARGETS))
    event = _event(TARGETS // 2)
    assert len(book.route(View(event))) == 1
    rate = median(_per_second(lambda each: book.route(View(each)), event, seconds / 6) for _ in range(rounds))
    return Row(what=f"{TARGETS:,} targets, one rule each: {what}", value=1e6 / rate, unit="us an event", must=must, at_most=True)


def _event(i: int | None = None) -> Event:
    kind = "created" if i is None else str(i)
    data = Raw((DATA % (i or 1)).encode())
    return Event(event_id="e", event_type=f"order.{kind}", source=f"shop/{i}/1", timestamp=1, accepted_at=1, data=data)


def _by_hand(view: View) -> bool:
    event, data = view.event, view.data
    return (
        event.event_type == "order.created"
        and isinstance(data, dict)
        and isinstance(amount := data.get("amount"), int | float)
        and amount > 100
        and data.get("currency") in ("EUR", "USD")
    )


def _per_second(call: Callable[[T], object], given: T, seconds: float) -> float:
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        for each in repeat(given, 100):
            call(each)
        count += 100
    return count / spent


def _p99_us(call: Callable[[View], object], view: View) -> float:
    """Of single calls, less what reading the clock takes."""
    clock, took, empty = time.perf_counter_ns, [], []
    for _ in range(100_000):
        start = clock()
        call(view)
        took.append(clock() - start)
        start = clock()
        empty.append(clock() - start)
    return (quantiles(took, n=100)[98] - median(empty)) / 1_000
