"""Equality of JSON values: numbers as numbers, booleans as nothing but booleans, at any depth."""

import datetime
import itertools

import pytest
from hypothesis import given

from tas_mcp.routing import MISSING
from tas_mcp.routing.equality import MAX_DEPTH, equals, kind
from tests.shared.routing.reference import same, values

CLASSES: list[list[object]] = [  # equal within, different between
    [None],
    [True],
    [False],
    [0, 0.0, -0.0],
    [1, 1.0],
    [2**53 + 1],
    [2.0**53],
    ["1"],
    [""],
    [[]],
    [{}],
    [[1, [2]], [1.0, [2.0]]],
    [[True, [2]]],
    [[1, [True]]],
    [{"a": 1, "b": [0]}, {"b": [0.0], "a": 1.0}],
    [{"a": True, "b": [0]}],
    [{"a": 1, "b": [False]}],
    [{"a": 1}],
]


@pytest.mark.parametrize(("i", "j"), list(itertools.product(range(len(CLASSES)), repeat=2)))
def test_equal_within_a_class_only(i: int, j: int) -> None:
    for expected, actual in itertools.product(CLASSES[i], CLASSES[j]):
        assert equals(expected)(actual) is (i == j)


def test_nothing_equals_missing() -> None:
    assert not any(equals(value)(MISSING) for values in CLASSES for value in values)


@given(values, values)
def test_equals_as_a_plain_comparison_does(expected: object, actual: object) -> None:
    assert equals(expected)(actual) is same(expected, actual)
    assert equals(expected)(expected) is True


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


def test_depth_is_bounded() -> None:
    assert equals(nested(MAX_DEPTH // 2))(nested(MAX_DEPTH // 2))
    assert not equals(nested(MAX_DEPTH // 2))(nested(400))
    with pytest.raises(ValueError, match="deeper than the 32 levels allowed"):
        equals(nested(MAX_DEPTH // 2 + 1))


@pytest.mark.parametrize("value", [datetime.date(2024, 1, 1), {"a": [datetime.date(2024, 1, 1)]}])
def test_what_json_does_not_know_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a JSON value, not a date"):
        equals(value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (True, "a boolean"),
        (1, "a number"),
        (1.5, "a number"),
        ("", "a string"),
        ([], "an array"),
        ({}, "an object"),
        (datetime.date(2024, 1, 1), "a date"),
    ],
)
def test_kind(value: object, name: str) -> None:
    assert kind(value) == name
