"""Every kind of error that msgspec raises, as a flaw with a pointer that leads to the member."""

from typing import Annotated, Any, Literal

import msgspec
import pytest

from tas_mcp.durations import Duration, from_json
from tas_mcp.validation import MAX_FLAWS, escape, flaw, flaws, mended


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    n: Annotated[int, msgspec.Meta(ge=0)]


class First(msgspec.Struct, frozen=True, tag="first", tag_field="type"):
    a: int = 0


class Second(msgspec.Struct, frozen=True, tag="second", tag_field="type"):
    b: int = 0


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    i: Inner
    items: list[Inner] = []
    counts: dict[str, int] = {}
    keys: dict[int, int] = {}
    pair: tuple[int, int] = (1, 2)
    kind: Literal["x", "y"] = "x"
    either: First | Second = First()
    wait: Duration = Duration(1)
    text: str = ""


WITH = '{"i":{"n":1},%s}'

CASES = [
    ("{}", "/i", "missing required field `i`"),
    ('{"i":{}}', "/i/n", "missing required field `n`"),
    ('{"i":{"n":-1}}', "/i/n", "Expected `int` >= 0"),
    ('{"i":{"n":null}}', "/i/n", "Expected `int`, got `null`"),
    ('{"i":{"n":1,"a/b~":1}}', "/i/a~1b~0", "unknown field `a/b~`"),
    (WITH % '"x":1', "/x", "unknown field `x`"),
    (WITH % '"items":[{"n":1},{"n":"x"}]', "/items/1/n", "Expected `int`, got `str`"),
    (WITH % '"items":[{"n":1},{}]', "/items/1/n", "missing required field `n`"),
    (WITH % '"counts":{"a":"x"}', "/counts/*", "Expected `int`, got `str`"),
    (WITH % '"keys":{"a":1}', "/keys", "Expected `int`, got `str`"),
    (WITH % '"pair":[1]', "/pair", "Expected `array` of length 2"),
    (WITH % '"pair":[1,"x"]', "/pair/1", "Expected `int`, got `str`"),
    (WITH % '"kind":"z"', "/kind", "Invalid enum value 'z'"),
    (WITH % '"either":{"type":"third"}', "/either/type", "Invalid value 'third'"),
    (WITH % '"either":{}', "/either/type", "missing required field `type`"),
    (WITH % '"wait":"soon"', "/wait", "'soon' is no duration"),
    ('{"i":{"n":1e400}}', "/i/n", "out of range"),
    ('{"i":{"n":' + "9" * 5000 + "}}", "/i/n", "out of range"),
    ("[]", "", "Expected `object`, got `array`"),
    ("null", "", "Expected `object`, got `null`"),
    ("", "", "truncated"),
    ('{"i":', "", "truncated"),
    ('{"i":{"n":1}} x', "", "trailing characters"),
    ("\ufeff{}", "", "malformed"),
    (WITH % '"text":NaN', "", "malformed"),
]


def failed(body: bytes, kind: object = Outer) -> Exception:
    with pytest.raises((ValueError, RecursionError)) as caught:
        msgspec.json.decode(body, type=kind, dec_hook=from_json)
    return caught.value


@pytest.mark.parametrize(("body", "pointer", "detail"), CASES)
def test_pointer_and_detail(body: str, pointer: str, detail: str) -> None:
    found = flaw(failed(body.encode()))
    assert found.pointer == pointer
    assert detail in found.detail
    assert "$" not in found.detail


def test_bad_utf8() -> None:
    found = flaw(failed(b'{"i":{"n":1},"text":"\xff"}'))
    assert found == ("", "not UTF-8: invalid start byte at byte 0")


def test_depth() -> None:
    assert flaw(failed(b"[" * 100_000, kind=object)) == ("", "nested too deep")


@pytest.mark.parametrize(("name", "token"), [("a", "a"), ("a/b", "a~1b"), ("~", "~0"), ("~1", "~01"), ("", "")])
def test_escape(name: str, token: str) -> None:
    assert escape(name) == token


@pytest.mark.parametrize(
    ("document", "pointers"),
    [
        ({"i": {"n": 1}}, []),
        ({}, ["/i"]),
        (5, [""]),
        ({"i": {"n": -1, "m": 1}, "text": 5, "items": [{"n": 1}, {"n": "x"}, 7, {}]},
         ["/i/n", "/i/m", "/text", "/items/1/n", "/items/2", "/items/3/n"]),
        ({"i": {"n": 1}, "counts": {"a/b": "x", "c": 1, "d": None}, "kind": "z"}, ["/counts/a~1b", "/counts/d", "/kind"]),
        ({"i": {"n": 1}, "either": {"type": "second", "b": "x"}, "wait": "soon"}, ["/either/b", "/wait"]),
        ({"i": {"n": 1}, "either": {"type": "third", "b": "x"}}, ["/either/type"]),
        ({"i": {"n": 1}, "either": {"b": "x"}}, ["/either/type"]),
        ({"i": {"n": 1}, "pair": [1, "x"], "keys": {"x": 1}}, ["/pair/1", "/keys"]),
        ({"i": {"n": 1}, "perhaps": 5, "many": [1, "x", "y"]}, ["/perhaps", "/many/1", "/many/2"]),
        ({"i": {"n": 1}, "perhaps": {"n": "x", "o": 1}}, ["/perhaps/n", "/perhaps/o"]),
        ({"i": {"n": 1}, "perhaps": None, "few": [1, 2, 3]}, ["/few"]),
    ],
)  # fmt: skip
def test_every_flaw_is_found(document: Any, pointers: list[str]) -> None:
    class Whole(Outer):
        perhaps: Inner | None = None
        many: tuple[int, ...] = ()
        few: Annotated[list[int], msgspec.Meta(max_length=2)] = []

    found = flaws(document, Whole, from_json)
    assert [each.pointer for each in found] == pointers
    assert all(each.detail for each in found)


def test_an_unknown_member_is_told_what_is_known() -> None:
    [found] = flaws({"i": {"n": 1, "m": 2}}, Outer, from_json)
    assert found == ("/i/m", "no such member; allowed are n")


def test_of_very_many_flaws_the_first_are_told() -> None:
    assert len(flaws({"i": {"n": 1}, "items": ["x"] * 10_000}, Outer, from_json)) == MAX_FLAWS


@pytest.mark.parametrize(
    ("document", "left"),
    [
        ({"i": {"n": 1, "m": 2}, "text": 5}, {"i": {"n": 1}}),
        ({"i": {"n": 1}, "items": [{"n": 1}, 7]}, {"i": {"n": 1}}),
        ({"i": {"n": 1}, "items": [{"n": 1}, {"n": 2, "m": 3}]}, {"i": {"n": 1}, "items": [{"n": 1}, {"n": 2}]}),
        ({"i": {"n": 1}, "counts": {"a/b": "x", "c": 1}}, {"i": {"n": 1}, "counts": {"c": 1}}),
        (5, 5),
    ],
)
def test_what_is_flawed_can_be_left_out(document: Any, left: Any) -> None:
    assert mended(document, Outer, from_json, flaws(document, Outer, from_json)) == left


def test_a_text_that_is_missing_is_empty() -> None:
    class Named(msgspec.Struct):
        id: str

    for document in ({}, {"id": 5}):
        assert mended(document, Named, from_json, flaws(document, Named, from_json)) == {"id": ""}
