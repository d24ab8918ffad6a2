"""Templates: Liquid text, and JSON whose strings are Liquid."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from tas_mcp.messages import Event
from tas_mcp.routing.view import MISSING, View
from tests.shared.routing.transforms.rig import ORDER, an_order, data, failure, flaws, transformed


@pytest.mark.parametrize(
    ("template", "body"),
    [
        ("plain", "plain"),
        ("Hi {{ event.data.user.name }}, {{ event.data.missing }}!", "Hi Ann, !"),
        ("{% for i in event.data.items %}{{ i.sku }}={{ i.n }};{% else %}none{% endfor %}", "a=2;b=3;"),
        ("{% for i in (1..3) %}{{ i }}{% endfor %}", "123"),
        ("{% if event.data.amount > 100 and event.metadata.k == 'v' %}big{% endif %}", "big"),
        ("{{ event.event_id }} {{ event.event_type }} {{ event.source }} {{ event.timestamp }}", "e1 order.created shop 5"),
        ("{{ event.data.user }} {{ event.data.user.vip }} {{ event.data['null'] }}", '{"name":"Ann","vip":true} true '),
        ("{% echo event.data.none %}{{ event.data.items.first.sku }}{{ event.data.items | size }}", "[]a2"),
        (
            "{{ event.data.user | append: '!' }} {{ event.data.user | json }}",
            '{"name":"Ann","vip":true}! {"name":"Ann","vip":true}',
        ),
        ("{{ event.data.items | map: 'sku' | join: '-' | upcase }}", "A-B"),
        ("{{ 'b,a,b' | split: ',' | uniq | join }} {{ 'x' | join: '-' }}", "b a x"),
        ("{{ event.data.items | sort: 'n' | reverse | map: 'sku' | join: event.data.vip }}", "ba"),
        ("{{ event.data.amount | times: 2 | plus: 0.5 }} {{ event.data.none | default: 'empty' }}", "300.5 empty"),
        ("{{ 'a b' | url_encode }} {{ 'a,b' | split: ',' | last }} {{ 'aaa' | replace: 'a', 'b' }}", "a+b b bbb"),
        ("{% raw %}{{ x }}{% endraw %}{% comment %}no{% endcomment %}", "{{ x }}"),
        ("{{ 'now' | date: '%F %T' }} {{ 'now' | date }}", "2023-11-14 22:13:20 now"),
        ("{{ event.timestamp | date: '%s' }} {{ '1700000000' | date: '%Y' }}", "5 2023"),
        ("{{ '2024-01-01T10:00:00+02:00' | date: '%H' }} {{ '2024-01-01' | date: '%d' }} {{ 'x' | date: '%d' }}", "08 01 x"),
        ("{{ 99999999999999999999 | date: '%Y' }} {{ true | date: '%Y' }}", "99999999999999999999 true"),
    ],
)
def test_a_string_is_the_body_of_the_delivery(template: str, body: str) -> None:
    output = transformed(template=template, content_type="text/plain")
    assert (output.body, output.content_type) == (body, "text/plain")
    assert output.event == an_order()


def test_without_content_type_it_is_the_targets_to_say() -> None:
    assert transformed(template="x").content_type is None


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ({"n": "{{ event.data.amount }}", "s": "{{ event.data.amount }} EUR"}, {"n": 150, "s": "150 EUR"}),
        ({"a": ["{{ event.data.user }}", "{{ event.data.user.vip }}", "x", 1]}, {"a": [ORDER["user"], True, "x", 1]}),
        ({"m": "{{ event.data.missing }}", "t": "-{{ event.data.missing }}"}, {"m": None, "t": "-"}),
        ({"sum": "{{ event.data.items | map: 'n' | sum }}", "{{ key }}": 1}, {"sum": 5, "{{ key }}": 1}),
        (["{{ event.data.items | map: 'no' }}", "{% if true %}t{% endif %}"], [[None, None], "t"]),
        (["{{ (1..3) }}", "{{ nil }}"], None),
        (7, 7),
        (False, False),
    ],
)
def test_any_other_json_is_the_new_data(template: Any, expected: Any) -> None:
    if expected is None:
        assert set(flaws(template=template)) == {"/template/0"}
    else:
        output = transformed(template=template)
        assert output.body is None
        assert data(template=template) == expected


def test_values_of_added_fields_are_templates() -> None:
    added = {"data.total": "{{ event.data.amount | times: 2 }}", "data.list": ["{{ event.source }}"], "data.amount": 1}
    assert data(add_fields=added) == {**ORDER, "total": 300, "list": ["shop"], "amount": 1}
    event = transformed(
        add_fields={"metadata.amount": "{{ event.data.amount }}", "event_type": "big.{{ event.event_type }}"}
    ).event
    assert (event.metadata["amount"], event.event_type) == ("150", "big.order.created")


def test_a_template_sees_what_the_steps_before_it_left() -> None:
    output = transformed(
        rename_fields={"data.user": "data.customer"},
        add_fields={"event_type": "x", "metadata.m": "y"},
        template="{{ event.data.user }}{{ event.data.customer.name }}{{ event.event_type }}{{ event.metadata.m }}",
    )
    assert output.body == "Annxy"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ event.data.x", "line 1, column 1: expected '}}'"),
        ("a\n{% for %}{% endfor %}", "line 2, column 4: "),
        ("{% if x %}", "expected tag"),
        ("{% include 'x' %}", "line 1, column 4: unexpected tag 'include'"),
        ("{% render 'x' %}", "unexpected tag 'render'"),
        ("\n {{ data.x }}", "line 2, column 5: there is no 'data'; the event is `event`"),
        ("{{ 'x' | strip_html }}", "line 1, column 10: there is no filter 'strip_html'"),
        ("{% assign r = (1..1000000000) %}", "the range (1..1000000000) can only be looped over"),
        ("{% if (1..9) contains 'x' %}{% endif %}", "can only be looped over"),
        ("{% for i in (1..3) %}{% if (1..9) contains i %}{% endif %}{% endfor %}", "can only be looped over"),
        ("{% if true %}" * 100 + "{% endif %}" * 100, "nest"),
        ("{{ event.data" + "[event" * 2000 + "]" * 2000 + " }}", "nested too deeply"),
        ("x" * 16_385 + "{{", "at most 16,384 characters"),
    ],
)
def test_what_cannot_work_is_refused_with_its_position(template: str, why: str) -> None:
    for pointer, found in (
        ("/template", flaws(template=template)),
        ("/template/a/0", flaws(template={"a": [template]})),
        ("/add_fields/data.x", flaws(add_fields={"data.x": template})),
        ("/add_fields/metadata.x", flaws(add_fields={"metadata.x": template})),
    ):
        assert list(found) == [pointer]
        assert why in found[pointer]


def test_a_template_that_is_nested_too_deeply_is_refused() -> None:
    template: Any = "x"
    for _ in range(33):
        template = [template]
    assert "/template" + "/0" * 32 in flaws(template=template)


def test_an_output_that_is_nested_deeper_than_json_can_be_written_fails() -> None:
    template: Any = "{{ event.data }}"
    for _ in range(32):
        template = [template]
    readable = next(depth for depth in range(1000, 0, -1) if View(nested(depth)).data is not MISSING)
    assert failure(nested(readable - 16), template=template) == "template: it is nested too deeply"


def nested(depth: int) -> Event:
    return msgspec.structs.replace(an_order(), data=Raw(b"[" * depth + b"]" * depth))


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ event.data.amount | divided_by: 0 }}", "template: line 1, column 24: divided_by: can't divide by 0"),
        ("{{ 'x' | base64_decode }}", "template: "),
        ("{% break %}", "template: line 1, column 4: unexpected 'break'"),
        ("{{ 'x' | date: '%99999d' }}", "template: line 1, column 10: date: the format must have"),
        ("{{ event.data.amount | round: 'a', 'b' }}", "template: line 1, column 24: "),
    ],
)
def test_what_fails_says_where(template: str, why: str) -> None:
    assert failure(template=template).startswith(why)


def test_content_type_is_a_media_type_of_a_text() -> None:
    assert flaws(template="x", content_type="application/xml; charset=utf-8") == {}
    for content_type in ("", "text", "text/a\r\nX: y", "text/ü", "text/" + "x" * 255):
        assert "must be a media type" in flaws(template="x", content_type=content_type)["/content_type"]
    others: list[dict[str, Any]] = [{}, {"template": {}}, {"jsonata": "$"}]
    for transform in others:
        assert "only the output of a template that is a string" in flaws(content_type="text/plain", **transform)["/content_type"]
