"""Durations: what people write, what is shown, and that nothing is lost between the two."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.durations import Duration, from_json, to_json

DAY_NS = 86_400 * 10**9


@pytest.mark.parametrize(
    ("given", "seconds", "shown"),
    [
        ("250ms", 0.25, "250ms"),
        ("5s", 5, "5s"),
        ("1m30s", 90, "90s"),
        ("2h", 7200, "2h"),
        ("90m", 5400, "90m"),
        ("1d", 86400, "24h"),
        ("1.5s", 1.5, "1500ms"),
        ("1us", 1e-6, "1us"),
        ("7ns", 7e-9, "7ns"),
        ("0s", 0, "0s"),
        (0, 0, "0s"),
        (5_000_000_000, 5, "5s"),
        (3_600_000_001_000, 3600.000001, "3600000001us"),
    ],
)
def test_read_and_shown(given: object, seconds: float, shown: str) -> None:
    found = Duration.parse(given)
    assert found == pytest.approx(seconds, abs=1e-12)
    assert str(found) == shown


@pytest.mark.parametrize(
    "given", ["", "5", "s", "-5s", "5 s", " 5s", "5s ", "5s\n", "5x", "1,5s", "1e3s", "٣s", -1, 1.5, True, None, [], {}]
)
def test_what_is_no_duration(given: object) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        Duration.parse(given)


@pytest.mark.parametrize("given", ["3651d", "9" * 400 + "h", 3651 * DAY_NS, 10**400])
def test_ten_years_are_the_most(given: object) -> None:
    with pytest.raises(ValueError, match="ten years"):
        Duration.parse(given)


@given(st.integers(0, 30 * DAY_NS))
def test_what_is_shown_means_the_same(nanoseconds: int) -> None:
    found = Duration.parse(nanoseconds)
    again = Duration.parse(str(found))
    assert round(again * 1e9) == nanoseconds
    assert str(again) == str(found)


class Document(msgspec.Struct):
    wait: Duration


@pytest.mark.parametrize("given", ["1500ms", 1_500_000_000])
def test_in_documents(given: Any) -> None:
    found = msgspec.convert({"wait": given}, Document, dec_hook=from_json)
    assert found.wait == 1.5
    assert msgspec.json.encode(found, enc_hook=to_json) == b'{"wait":"1500ms"}'


def test_other_types_are_not_ours() -> None:
    with pytest.raises(NotImplementedError):
        from_json(complex, 1)
    with pytest.raises(NotImplementedError):
        to_json(1j)
