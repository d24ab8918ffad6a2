"""YAML as data with lines: what JSON can say is taken, all else is refused by its line."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.target_files.parsing import MAX_VALUES, ParseError, parse


def values(text: str | bytes, *, as_json: bool = False) -> list[Any]:
    content = text if isinstance(text, bytes) else text.encode()
    return [each.value for each in parse(content, json=as_json)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: yes\nb: on\nc: no", {"a": "yes", "b": "on", "c": "no"}),
        ("[12:30, 2024-01-01, 1_000, 0b1, <<, .inf]", ["12:30", "2024-01-01", "1_000", "0b1", "<<", ".inf"]),
        ("[true, False, null, ~, 'true', \"1\"]", [True, False, None, None, "true", "1"]),
        ("[7, -7, 007, 0x1F, 0o17, 1.5, -1e3, .5, 1.]", [7, -7, 7, 31, 15, 1.5, -1000.0, 0.5, 1.0]),
        ("a:", {"a": None}),
        ("5: five\ntrue: t", {"5": "five", "true": "t"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("\ufeffa: grün", {"a": "grün"}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
    ],
)
def test_what_is_taken(text: str, value: Any) -> None:
    assert repr(values(text)) == repr([value])


@pytest.mark.parametrize(
    ("text", "line", "detail"),
    [
        ("a: 1\nb: 2\na: 3", 3, "'a' stands here again; it is in line 1 already"),
        ("a:\n  - b: 1\n    b: 2", 3, "again"),
        ("a: [1, 2", 2, "sequence"),
        ("a: 1\n b: 2", 2, "mapping values are not allowed"),
        ("a: !!python/object/apply:os.system [x]", 1, "python/object/apply:os.system' is not allowed"),
        ("a: 1\nb: !secret x", 2, "'!secret' is not allowed"),
        ("!!set {a, b}", 1, "is not allowed"),
        ("a: !!int x", 1, "'x' is no value of the type"),
        ("a: " + "9" * 5000, 1, "is no value of the type"),
        ("a: 1e999", 1, "out of range"),
        ("? [a]\n: 1", 1, "the name of a member must be a text"),
        ("a: &x [*x]", 1, "nested deeper"),
        ("\n" + "[" * 70 + "]" * 70, 2, "nested deeper"),
        ("[" * 100_000, 1, ""),
        ("a: 1\nb: \x00", 2, "does not allow"),
        ("a: *missing", 1, "alias"),
        (b"a: 1\nb: \xff", 2, "not UTF-8"),
        ("a: 1\n---\n- b: 1\n  b: 1", 4, "again"),
    ],
)
def test_what_is_refused_and_where(text: str | bytes, line: int, detail: str) -> None:
    with pytest.raises(ParseError, match=r"(?s).+") as caught:
        values(text)
    assert caught.value.line == line
    assert detail in str(caught.value)


def test_aliases_do_not_make_a_small_file_large() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        bomb += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    with pytest.raises(ParseError, match=str(MAX_VALUES)):
        values(bomb)


def test_values_have_lines() -> None:
    [parsed] = parse(
        b"# comment\nid: a\nrules:\n- id: x\n  conditions:\n  - {field: a,\n     operator: b}\n- id: y\n", json=False
    )
    expected = {"": 2, "/id": 2, "/rules": 3, "/rules/0/id": 4, "/rules/0/conditions/0/operator": 7, "/rules/1": 8}
    assert {pointer: parsed.line(pointer) for pointer in expected} == expected
    assert parsed.line("/rules/1/conditions/3/field") == 8
    assert parsed.line("/endpoint") == 2


def test_many_documents() -> None:
    assert values("---\na: 1\n---\n- 2\n---\n") == [{"a": 1}, [2], None]
    assert values("") == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=10,
)


@given(JSON, st.booleans(), st.sampled_from([None, 2, "\t"]))
def test_json_is_read_as_json_is(value: Any, plain: bool, indent: int | str | None) -> None:
    text = json.dumps(value, ensure_ascii=plain, indent=indent)
    assert repr(values(text, as_json=True)) == repr([value])
