"""The book: the same matches as asking every target, in the order of their ids, and few targets asked."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.messages import Event
from tas_mcp.routing import Condition, Decision, Match, Route, Rule, RuleBook, RuleSet, View, compile_rules
from tests.shared.routing.reference import a_view, decide, events, rule_lists


def one_rule(field: str, value: Any) -> RuleSet:
    return compile_rules([Rule(id="r", conditions=[Condition(field=field, operator="eq", value=value)])])


EVERYTHING = compile_rules([])


def test_an_empty_book_routes_nowhere() -> None:
    assert RuleBook.build([]).route(a_view()) == []


def test_matches_come_in_the_order_of_target_ids_whatever_the_index() -> None:
    book = RuleBook.build(
        [
            Route("f", 6, EVERYTHING),
            Route("b", 2, one_rule("source", "auth")),
            Route("d", 4, one_rule("event_type", "user.created")),
            Route("e", 5, one_rule("source", "auth")),
            Route("a", 1, one_rule("event_type", "user.created")),
            Route("c", 3, EVERYTHING),
            Route("x", 7, one_rule("event_type", "user.deleted")),
            Route("y", 8, one_rule("source", "shop")),
            Route("z", 9, one_rule("data.a", 1)),
        ]
    )
    assert book.route(a_view()) == [
        Match("a", 1, "r"),
        Match("b", 2, "r"),
        Match("c", 3, ""),
        Match("d", 4, "r"),
        Match("e", 5, "r"),
        Match("f", 6, ""),
    ]


def test_a_route_that_names_several_types_matches_once() -> None:
    conditions = [Condition(field="event_type", operator="in", value=["user.created", "a", "b"])]
    book = RuleBook.build([Route("t", 3, compile_rules([Rule(id="r", conditions=conditions)]))])
    assert book.route(a_view(event_type="a")) == book.route(a_view()) == [Match("t", 3, "r")]
    assert book.route(a_view(event_type="c")) == []


@pytest.mark.parametrize("field", ["event_type", "source"])
def test_only_targets_that_might_match_are_asked(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    book = RuleBook.build(Route(f"t{i}", 1, one_rule(field, f"v{i}")) for i in range(1000))
    asked: list[RuleSet] = []
    really = RuleSet.decide

    def noted(rules: RuleSet, view: View) -> Decision | None:
        asked.append(rules)
        return really(rules, view)

    monkeypatch.setattr(RuleSet, "decide", noted)
    assert book.route(a_view(**{field: "v7"})) == [Match("t7", 1, "r")]
    assert len(asked) == 1


@given(targets=st.dictionaries(st.text("abc", max_size=2), rule_lists(), max_size=6), event=events())
def test_routes_as_asking_every_target_does(targets: dict[str, list[Rule]], event: Event) -> None:
    numbered = list(enumerate(targets.items()))
    book = RuleBook.build(Route(target_id, i, compile_rules(rules)) for i, (target_id, rules) in numbered)
    expected = [
        Match(target_id, i, rule_id) for i, (target_id, rules) in numbered if (rule_id := decide(rules, event)) is not None
    ]
    assert book.route(View(event)) == sorted(expected)
    told = book.explain(View(event))
    assert [each.target_id for each in told] == sorted(targets)
    assert [(*each[:2], each.rule_id) for each in told if each.matched] == [match[:3] for match in sorted(expected)]
    assert [each.why["matched"] for each in told] == [each.matched for each in told]
