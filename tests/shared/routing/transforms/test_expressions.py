"""JSONata."""

import sys
from typing import Any

import pytest
from hypothesis import given

from tas_mcp.messages import Event
from tests.shared.routing.reference import data_of, events
from tests.shared.routing.transforms.rig import ORDER, an_order, data, failure, flaws


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("$", ORDER),
        ('{"total": $sum(items.n), "names": items.sku}', {"total": 5, "names": ["a", "b"]}),
        ('{"null": null, "was": $$."null", "gone": missing}', {"null": None, "was": None}),
        ("items[n > 2].sku", "b"),
        ("items^(>n).sku", ["b", "a"]),
        ("items{sku: n}", {"a": 2, "b": 3}),
        ('none{"k": $}', {}),
        ("items ~> $map(function($v, $i) { $i }) ~> $sum", 1),
        ("$ ~> |items|{'x': 1}, ['sku']|", {**ORDER, "items": [{"n": 2, "x": 1}, {"n": 3, "x": 1}]}),
        ("($f := $substring(?, 0, 2); $f('abcd'))", "ab"),
        ("($f := function($n) { $n < 1 ? 0 : 1 + $f($n - 1) }; $f(9))", 9),
        ("$replace('abcabc', /b(c)/, '[$1]') & $replace('aXbX', 'X', '-')", "a[c]a[c]a-b-"),
        ("$match('aBc', /b/i).match & $split('a1b2', /[0-9]/)[1]", "Bb"),
        ("[1..3]", [1, 2, 3]),
        ("amount = 150 and items[0] != items[1]", True),
        ("'a' in items.sku", True),
        ("items[0].*", ["a", 2]),
        ("**.sku", ["a", "b"]),
        ("$distinct([1, 1, 2]) ~> $append([3])", [1, 2, 3]),
        ("$now() & ' ' & $now('[Y]')", "2023-11-14T22:13:20.123Z 2023"),
        ("$millis()", 1_700_000_000_123),
    ],
)
def test_the_result_is_the_new_data(expression: str, expected: Any) -> None:
    assert data(jsonata=expression) == expected


def test_the_root_is_the_data_the_steps_before_it_left() -> None:
    assert data(rename_fields={"data.amount": "data.sum"}, jsonata="sum") == 150
    assert data(an_order('{"a": 1}'), jsonata="a") == 1


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("items.(", "position 7: Expected ) before end of expression"),
        ("a b", "position 3: Syntax error: b"),
        ("/*/", "it cannot be parsed"),
        ("/+/", "a regex (RE2) cannot be compiled"),
        (r"/(a)\1/", "a regex (RE2) cannot be compiled"),
        ("$eval('1')", "position 5: $eval is not available"),
        ("items.{'x': [$random()]}", "$random is not available"),
        ("($f := $shuffle; $f(items))", "$shuffle is not available"),
        ("function($x)<s+s+:s>{$x}", "a function's signature <...> is not supported"),
        ("(" * 1000 + "1" + ")" * 1000, "nested too deeply"),
        ("x" * 8_193, "at most 8,192 characters"),
        ("", "position "),
    ],
)
def test_what_cannot_work_is_refused_with_its_position(expression: str, why: str) -> None:
    found = flaws(jsonata=expression)
    assert list(found) == ["/jsonata"]
    assert why in found["/jsonata"]


def test_jsonata_and_template_exclude_each_other() -> None:
    assert "exclude each other" in flaws(jsonata="$", template="x")["/jsonata"]


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("missing", "jsonata: the expression yields nothing"),
        ("$error('not today')", "jsonata: position 7: not today"),
        ("amount + 'x'", "jsonata: The right side of the + operator"),
        ("$sum", "jsonata: the result holds a function"),
        ("{'a': [function($x) { $x }]}", "jsonata: the result holds a function"),
        ("[1..'x']", "jsonata: The right side of the range operator"),
        ("$match(missing, /a/)", "jsonata: the expression yields nothing"),
        ("$split('a b', missing)", "jsonata: a pattern is a text or a regex"),
        ("$match('a b', function($x) { $x })", "jsonata: a pattern is a text or a regex"),
        ("$nope(1)", "jsonata: position 6: Attempted to invoke a non-function"),
        (r"'\ud83d'", "jsonata: 'utf-8' codec can't encode"),
    ],
)
def test_what_yields_no_data_fails(expression: str, why: str) -> None:
    assert failure(jsonata=expression).startswith(why)


def test_the_recursion_limit_of_the_process_is_left_alone() -> None:
    assert sys.getrecursionlimit() == 1000


@given(events())
def test_json_in_json_out(event: Event) -> None:
    given_data = data_of(event)
    assert data(event, jsonata="{'is': $}") == ({"is": given_data} if given_data is not None else {})
