"""The book: the same matches as asking every target, in the order of their ids, and few targets asked."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.messages import Event
from tas_mcp.routing import Condition, Decision, Match, Route, Rule, RuleBook, RuleSet, Split, View, compile_field, compile_rules
from tests.shared.routing.reference import a_view, an_event, decide, events, rule_lists


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


def split(group: str, weight: int = 1, key: str = "event_id") -> Split:
    return Split(group, weight, compile_field(key))


def test_prefixes_are_indexed_as_equality_is() -> None:
    def starting(prefix: str) -> RuleSet:
        return compile_rules([Rule(id="r", conditions=[Condition(field="source", operator="starts_with", value=prefix)])])

    book = RuleBook.build([Route("a", 1, starting("au")), Route("b", 1, starting("auth")), Route("c", 1, starting("x"))])
    assert [match.target_id for match in book.route(a_view(source="auth"))] == ["a", "b"]
    assert [match.target_id for match in book.route(a_view(source="aux"))] == ["a"]
    assert book.route(a_view(source="a")) == []


EVENTS = [an_event({"user": number % 50}, event_id=f"e-{number}") for number in range(1000)]


def takers(routes: list[Route]) -> list[str]:
    """The targets that take each event, and that explaining tells the same."""
    book = RuleBook.build(routes)
    found = []
    for event in EVENTS:
        taken = [match.target_id for match in book.route(View(event))]
        told = book.explain(View(event))
        assert [each.target_id for each in told if each.matched] == taken
        assert [each.why["matched"] for each in told] == [each.matched for each in told]
        found.append(" ".join(taken))
    return found


def test_one_of_a_split_group_takes_an_event_in_proportion_to_its_weight() -> None:
    found = takers([Route("a", 1, EVERYTHING, split("g", 9)), Route("b", 1, EVERYTHING, split("g", 1))])
    assert set(found) == {"a", "b"}
    assert 60 < found.count("b") < 150


def test_only_the_matching_members_share_and_other_groups_do_not_matter() -> None:
    routes = [
        Route("a", 1, EVERYTHING, split("g")),
        Route("b", 1, one_rule("source", "shop"), split("g", 99)),
        Route("c", 1, EVERYTHING, split("h")),
        Route("d", 1, EVERYTHING),
    ]
    assert set(takers(routes)) == {"a c d"}


def test_a_weight_of_0_takes_nothing() -> None:
    assert set(takers([Route("a", 1, EVERYTHING, split("g", 0)), Route("b", 1, EVERYTHING, split("g"))])) == {"b"}
    assert set(takers([Route("a", 1, EVERYTHING, split("g", 0))])) == {""}


def test_what_has_the_same_key_goes_to_the_same_target() -> None:
    found = takers([Route(name, 1, EVERYTHING, split("g", key="data.user")) for name in "abc"])
    assert set(found) == {"a", "b", "c"}
    assert all(found[number] == found[number % 50] for number in range(1000))


def test_where_the_key_is_missing_the_event_id_decides() -> None:
    by_id = takers([Route(name, 1, EVERYTHING, split("g")) for name in "ab"])
    assert takers([Route(name, 1, EVERYTHING, split("g", key="data.absent")) for name in "ab"]) == by_id
    assert takers([Route(name, 1, EVERYTHING, split("g", key="source")) for name in "ab"]) != by_id


def test_a_split_is_explained() -> None:
    book = RuleBook.build([Route("a", 1, EVERYTHING, split("g", 0)), Route("b", 1, EVERYTHING, split("g"))])
    assert [each.why["because"] for each in book.explain(a_view())] == [
        "not matched: b takes this event for the split group g",
        "matched: it takes this event for the split group g",
    ]
    none = RuleBook.build([Route("a", 1, EVERYTHING, split("g", 0))]).explain(a_view())
    assert none[0].why["because"] == "not matched: every matching target of the split group g has the weight 0"
