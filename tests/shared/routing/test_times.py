"""Times: one scale for RFC 3339 and Unix seconds."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.routing.times import seconds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (-1.5, -1.5),
        ("1970-01-01T00:00:01Z", 1),
        ("1970-01-01T01:00:01.5+01:00", 1.5),
        ("2023-12-19T15:53:54Z", 1703001234),
        ("2023-12-19T15:53:54", None),
        ("2023-12-19", None),
        ("2023-13-19T15:53:54Z", None),
        ("1703001234", None),
        ("", None),
        (True, None),
        (None, None),
        ([], None),
    ],
)
def test_seconds(value: object, expected: float | None) -> None:
    assert seconds(value) == expected


@given(st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 28)), st.integers(-23 * 60, 23 * 60))  # noqa: DTZ001
def test_an_instant_is_the_same_whatever_its_offset(when: datetime, minutes: int) -> None:
    here = when.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=minutes)))
    assert seconds(here.isoformat()) == when.replace(tzinfo=UTC).timestamp()
