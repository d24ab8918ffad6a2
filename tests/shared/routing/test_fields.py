"""Fields: what a name reads, and how a name that cannot be is refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tas_mcp.messages import Event
from tas_mcp.routing import MISSING, FieldSyntaxError, View, compile_field
from tas_mcp.routing.fields import MAX_LENGTH, MAX_STEPS
from tests.shared.routing.reference import FIELDS, a_view, events, read

VIEW = a_view(
    {
        "amount": 100,
        "none": None,
        "user": {"name": "Ann", "first name": "A", "user-id": 7, "x.y": 1, "": 2, "*": 3, "a]b": 4, 'q"': 5, "ü": 6},
        "items": [{"sku": "s0"}, {"sku": "s1"}, [10, 20]],
        "0": "zero",
    },
    metadata={"k": "v", "x.y": "dotted", "data": "d"},
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event_id", "e-1"),
        ("event_type", "user.created"),
        ("source", "auth"),
        ("timestamp", 1703001234),
        ("metadata.k", "v"),
        ("metadata.x.y", "dotted"),
        ("metadata.data", "d"),
        ("data.amount", 100),
        ("data.none", None),
        ("data.0", "zero"),
        ("data.user.name", "Ann"),
        ("data.user.first name", "A"),
        ("data.user.user-id", 7),
        ("data.user.ü", 6),
        ('data.user["x.y"]', 1),
        ('data["user"]["x.y"]', 1),
        ('data.user[""]', 2),
        ('data.user["*"]', 3),
        ('data.user["a]b"]', 4),
        ('data.user["q\\""]', 5),
        ('data.user["\\u00fc"]', 6),
        ("data.items[0].sku", "s0"),
        ("data.items[1].sku", "s1"),
        ("data.items[-2].sku", "s1"),
        ("data.items[-1][1]", 20),
        ("data.items[-1][-2]", 10),
        ('data.items[0]["sku"]', "s0"),
    ],
)
def test_reads(field: str, value: object) -> None:
    assert compile_field(field)(VIEW) == value


def test_an_attribute_of_a_cloudevent_is_read_as_targets_get_it() -> None:
    view = a_view(metadata={"subject": "of metadata", "region": "eu"}, cloudevent={"subject": "own", "n": 5, "b": True})
    read = {name: compile_field("cloudevent." + name)(view) for name in ("subject", "region", "n", "b", "x")}
    assert read == {"subject": "own", "region": "eu", "n": 5, "b": True, "x": MISSING}


@pytest.mark.parametrize(
    "field",
    [
        "metadata.absent",
        "metadata.K",
        "data.absent",
        "data.absent.deeper[0].still",
        "data.amount.x",
        "data.amount[0]",
        "data.none.x",
        "data.user[0]",
        "data.user.name[0]",
        "data.items.sku",
        "data.items.0",
        "data.items[3]",
        "data.items[-4]",
        "data.items[" + "9" * 400 + "]",
        "data[0]",
        'data.user["name.x"]',
    ],
)
def test_what_is_not_there_is_missing(field: str) -> None:
    assert compile_field(field)(VIEW) is MISSING


def test_data_itself() -> None:
    assert compile_field("data")(a_view([1])) == [1]
    assert compile_field("data[0]")(a_view([1])) == 1
    assert compile_field("data.a")(a_view('{"a": 1}')) == 1
    assert compile_field("data.a")(a_view("text")) is MISSING


@pytest.mark.parametrize(
    ("field", "position", "allowed"),
    [
        (
            "",
            0,
            "no such field; allowed are event_id, event_type, source, timestamp, metadata.<key>, cloudevent.<attribute>,",
        ),
        ("type", 0, "no such field"),
        ("Event_type", 0, "no such field"),
        (" source", 0, "no such field"),
        ("database", 0, "no such field"),
        ("metadata", 0, "no such field"),
        ('metadata["k"]', 0, "no such field"),
        ("source.x", 0, "no such field"),
        ("metadata.", 9, "the metadata key is missing"),
        ("cloudevent.", 11, "the name of the attribute is missing"),
        ("data.", 4, 'a step is .name, [0], [-1], [*] or ["key with dots"]'),
        ("data.a..b", 6, "a step is"),
        ("data.a.", 6, "a step is"),
        ("data.a[", 6, "a step is"),
        ("data.a[]", 6, "a step is"),
        ("data.a[1", 6, "a step is"),
        ("data.a[01]", 6, "a step is"),
        ("data.a[+1]", 6, "a step is"),
        ("data.a[1.5]", 6, "a step is"),
        ("data.a[٣]", 6, "a step is"),
        ("data.a[x]", 6, "a step is"),
        ("data.a['x']", 6, "a step is"),
        ('data.a["x]', 6, "a step is"),
        ("data.a]", 6, "a step is"),
        ("data.a[0]b", 9, "a step is"),
        ('data.a["\\q"]', 6, "the key in quotes must be a JSON string"),
        ('data.a["\\ud800"]', 6, "the key in quotes must be a JSON string"),
        ("data.a[*]", 6, "[*] has many values; name one element"),
        ("data[*].a", 4, "[*] has many values; name one element"),
        ("data.a.[*]", 6, "a step is"),
        ("data.a.*", 6, 'a key like this is written ["*"]'),
        ('data.a["\ud800"]', 6, "the key in quotes must be a JSON string"),
        ("data.\ud800 ", 4, "a key like this is written"),
        ("data.a ", 4, 'a key like this is written ["a "]'),
        ("data. a.b", 4, 'a key like this is written [" a"]'),
    ],
)
def test_refuses_with_the_position_and_what_is_allowed(field: str, position: int, allowed: str) -> None:
    with pytest.raises(FieldSyntaxError) as caught:
        compile_field(field)
    assert caught.value.position == position
    assert f"position {position}: {allowed}" in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_length_is_bounded() -> None:
    longest = "metadata." + "k" * (MAX_LENGTH - 9)
    assert compile_field(longest)(VIEW) is MISSING
    with pytest.raises(FieldSyntaxError, match="at most 512 characters are allowed, these are 513") as caught:
        compile_field(longest + "k")
    assert len(str(caught.value)) < 250


def test_steps_are_bounded() -> None:
    nested: object = "found"
    for _ in range(MAX_STEPS):
        nested = [nested]
    assert compile_field("data" + "[0]" * MAX_STEPS)(a_view(nested)) == "found"
    with pytest.raises(FieldSyntaxError, match="position 100: at most 32 steps are allowed"):
        compile_field("data" + "[0]" * (MAX_STEPS + 1))


@given(event=events(), field=st.sampled_from(FIELDS))
def test_reads_what_a_plain_reading_gives(event: Event, field: str) -> None:
    value, expected = compile_field(field)(View(event)), read(field, event)
    assert value == expected
    assert type(value) is type(expected)


@given(st.text(alphabet='ab.*[]"\\01- \n', max_size=20).map("data".__add__) | st.text(max_size=20))
@example('data["' + "\\" * 400)
def test_any_text_either_compiles_or_is_a_syntax_error(text: str) -> None:
    try:
        field = compile_field(text)
    except FieldSyntaxError as error:
        assert 0 <= error.position <= len(text)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        field(VIEW)
