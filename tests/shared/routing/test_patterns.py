"""Patterns: what they match, what is refused, and that none costs more than its share."""

import time

import pytest

from tas_mcp.routing.patterns import MAX_LENGTH, WORK, Pattern, glob, regex


@pytest.mark.parametrize(
    ("pattern", "text", "matched"),
    [
        ("*", "", True),
        ("order.*", "order.created", True),
        ("order.*", "order", False),
        ("order.*", "xorder.created", False),
        ("*.created", "order.created", True),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("a?c", "aüc", True),
        ("a*c", "a\n\nc", True),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("\\*", "*", True),
        ("\\*", "a", False),
        ("a\\", "a\\", True),
    ],
)
def test_globs(pattern: str, text: str, matched: bool) -> None:
    assert glob(pattern).test(text) is matched


def test_a_regex_matches_anywhere_unless_anchored() -> None:
    assert regex("b").test("abc")
    assert not regex("^b").test("abc")
    assert not regex("b").test(["b"])


@pytest.mark.parametrize(
    ("pattern", "detail"),
    [
        ("a(b", "position 3: missing )"),
        ("ab[z-a]", "position 3: invalid character class range: z-a"),
        ("x(?=a)", "position 1: invalid perl operator: (?="),
        (r"(a)\1", "position 3: invalid escape sequence: "),
        ("a\\", "trailing"),
        ("a{1001}", "position 1: invalid repetition size: {1001}"),
        ("(?:[[:word:]\\pL]{30}){30}", "pattern too large"),
        ("a" * (MAX_LENGTH + 1), "at most 512 characters are allowed, these are 513"),
    ],
)
def test_refuses_a_regex_and_says_where(pattern: str, detail: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        regex(pattern)
    assert detail in str(caught.value)


def test_the_length_of_a_glob_is_bounded() -> None:
    with pytest.raises(ValueError, match="at most 512 characters"):
        glob("*" * (MAX_LENGTH + 1))


def test_what_would_cost_too_much_is_not_looked_at_and_told() -> None:
    pattern = regex("a[ab]{900}c")
    assert 1000 < pattern.limit < WORK // 900
    assert pattern.test("a" * 901 + "c")
    assert not pattern.test("a" * pattern.limit + "c")
    assert pattern.objection("a" * pattern.limit) is None
    assert str(pattern.objection("a" * (pattern.limit + 1))).endswith(f"this pattern takes {pattern.limit:,} at most")
    assert pattern.objection("ü" * (pattern.limit // 2)) is not None
    assert pattern.objection(1) == "is a number, not a string"


SECONDS = 0.25
"""Of processor time; 50 ms is the aim, and a slow machine may take longer. What is unbounded takes many seconds."""

HARD = ["a[ab]{900}c", "(a|b)*a(a|b){20}$x", "(?:a?){100}a{100}c", "(?:(?:a?b?){20}){20}c", ".{500}$x", "(.*a){30}c"]


@pytest.mark.parametrize("pattern", [*map(regex, HARD), glob("*a" * 200 + "c"), glob("?*" * 250)])
def test_the_hardest_patterns_on_the_longest_texts_are_bounded(pattern: Pattern) -> None:
    text = ("abbaababbabaabba" * (1 << 16))[: min(pattern.limit, 1 << 20)]
    spent = []
    for _ in range(3):
        began = time.thread_time()
        pattern.test(text)
        spent.append(time.thread_time() - began)
    assert min(spent) < SECONDS
