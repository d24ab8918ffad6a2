"""When to try again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.forward.retry import rfc3339, wait

SECONDS = st.floats(0, 10 * 86_400)
FRACTION = st.floats(0, 1, exclude_max=True)


@given(st.lists(SECONDS, max_size=10), st.integers(1, 12), FRACTION)
def test_each_wait_of_the_schedule_within_a_fifth_then_none(schedule: list[float], failed: int, fraction: float) -> None:
    found = wait(schedule, failed, 0.0, lambda: fraction)
    if failed > len(schedule):
        assert found is None
    else:
        assert found is not None
        assert 0.8 * schedule[failed - 1] <= found <= 1.2 * schedule[failed - 1]


@given(SECONDS, st.floats(0, 1e9), FRACTION)
def test_what_the_target_asks_for_is_a_lower_bound_that_is_bounded(scheduled: float, asked: float, fraction: float) -> None:
    plain = wait([scheduled], 1, 0.0, lambda: fraction)
    found = wait([scheduled], 1, asked, lambda: fraction)
    assert found is not None
    assert plain is not None
    assert found >= plain
    assert found >= min(asked, 60.0)
    assert found <= max(plain, 60.0, 2 * scheduled)


@pytest.mark.parametrize(
    ("schedule", "failed", "asked", "fraction", "seconds"),
    [
        ([10.0, 100.0], 1, 0.0, 0.5, 10.0),
        ([10.0, 100.0], 1, 0.0, 0.0, 8.0),
        ([10.0, 100.0], 2, 0.0, 0.5, 100.0),
        ([10.0, 100.0], 3, 0.0, 0.5, None),
        ([], 1, 0.0, 0.5, None),
        ([], 1, 30.0, 0.5, None),
        ([10.0], 1, 5.0, 0.5, 10.0),
        ([10.0], 1, 30.0, 0.5, 30.0),
        ([10.0], 1, 3600.0, 0.5, 60.0),
        ([100.0], 1, 3600.0, 0.5, 200.0),
    ],
)
def test_table(schedule: list[float], failed: int, asked: float, fraction: float, seconds: float | None) -> None:
    assert wait(schedule, failed, asked, lambda: fraction) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01T00:00:00.000000Z"), (1703001234.25, "2023-12-19T15:53:54.250000Z"), (4e9, "2096-10-02T07:06:40.000000Z")],
)
def test_times_as_the_broker_wants_them(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text
