"""Which events a filter keeps, and what it says of one that makes no sense."""

import msgspec
import pytest

from services.ingest.filters import MAX_PATTERNS, compile_filter
from tas_mcp.errors import Rejected
from tas_mcp.messages import Event
from tas_mcp.routing import Condition, View

LARGE = Condition(field="data.amount", operator="gt", value=10)


def event(event_type: str, amount: int = 0) -> View:
    data = msgspec.Raw(b'{"amount":%d}' % amount)
    return View(Event(event_id="e", event_type=event_type, source="s", timestamp=1, accepted_at=1, data=data))


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (["user.created"], {"user.created"}),
        (["user.*"], {"user.created", "user.address.changed"}),
        (["user.?reated", "order.*"], {"user.created", "order.paid"}),
        (["*"], {"user.created", "user.address.changed", "order.paid"}),
        (["nothing"], set()),
    ],
)
def test_patterns_of_event_types(patterns: list[str], kept: set[str]) -> None:
    keep = compile_filter(patterns)
    assert keep is not None
    assert {name for name in ("user.created", "user.address.changed", "order.paid") if keep(event(name))} == kept


def test_conditions_must_hold_as_well() -> None:
    keep = compile_filter(["order.*"], [LARGE])
    assert keep is not None
    seen = [keep(event(name, amount)) for name, amount in (("order.paid", 11), ("order.paid", 10), ("user.created", 11))]
    assert seen == [True, False, False]


def test_conditions_alone() -> None:
    keep = compile_filter(conditions=[LARGE])
    assert keep is not None
    assert keep(event("user.created", 11))


def test_nothing_asked_is_everything() -> None:
    assert compile_filter() is None


def test_what_is_wrong_is_told_all_at_once_and_where() -> None:
    with pytest.raises(Rejected) as caught:
        compile_filter(["user.*", "x" * 600], [LARGE, Condition(field="data.amount", operator="greater", value=1)])
    assert caught.value.code == "INVALID_RULES"
    assert [flaw.pointer for flaw in caught.value.flaws] == ["/event_types/1", "/conditions/1/operator"]


def test_too_many_patterns() -> None:
    with pytest.raises(Rejected, match="at most 100 patterns"):
        compile_filter(["a"] * (MAX_PATTERNS + 1))
