"""When to try again."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.forward.retry import most, rfc3339, wait
from tas_mcp.durations import Duration
from tas_mcp.targets import Exponential, Retry


def planned(schedule: list[float]) -> Retry:
    return Retry(schedule=tuple(map(Duration, schedule)))


SECONDS = st.floats(0, 10 * 86_400)
FRACTION = st.floats(0, 1, exclude_max=True)


@given(st.lists(SECONDS, max_size=10), st.integers(1, 12), FRACTION)
def test_each_wait_of_the_schedule_within_a_fifth_then_none(schedule: list[float], failed: int, fraction: float) -> None:
    found = wait(planned(schedule), failed, 0.0, 0.0, lambda: fraction)
    if failed > len(schedule):
        assert found is None
    else:
        assert found is not None
        assert 0.8 * schedule[failed - 1] <= found <= 1.2 * schedule[failed - 1]


@given(SECONDS, st.floats(0, 1e9), FRACTION)
def test_what_the_target_asks_for_is_a_lower_bound_that_is_bounded(scheduled: float, asked: float, fraction: float) -> None:
    plain = wait(planned([scheduled]), 1, 0.0, 0.0, lambda: fraction)
    found = wait(planned([scheduled]), 1, asked, 0.0, lambda: fraction)
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
    assert wait(planned(schedule), failed, asked, 0.0, lambda: fraction) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1970-01-01T00:00:00.000000Z"), (1703001234.25, "2023-12-19T15:53:54.250000Z"), (4e9, "2096-10-02T07:06:40.000000Z")],
)
def test_times_as_the_broker_wants_them(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text


POLICIES = st.builds(
    Exponential,
    base=st.floats(0.1, 60).map(Duration),
    factor=st.floats(1, 10),
    max=st.floats(60, 86_400).map(Duration),
    attempts=st.integers(1, 30),
    budget=st.floats(60, 10 * 86_400).map(Duration),
)


@given(POLICIES, st.lists(FRACTION, min_size=30, max_size=30), st.floats(0, 300))
def test_exponential_waits_keep_their_bounds_over_a_whole_history(
    policy: Exponential, fractions: list[float], took: float
) -> None:
    """Every attempt fails, each after ``took`` seconds: in made-up time, however long."""
    retry, now, attempts, each = Retry(exponential=policy), took, 1, iter(fractions)
    while (seconds := wait(retry, attempts, 0.0, now, each.__next__)) is not None:
        ideal = min(policy.base * policy.factor ** (attempts - 1), policy.max)
        assert 0.8 * ideal <= seconds * (1 + 1e-9)
        assert seconds <= 1.2 * ideal * (1 + 1e-9)
        assert now + seconds <= policy.budget
        now += seconds + took
        attempts += 1
    assert attempts <= policy.attempts == most(retry) + 1


def test_three_days_of_an_exponential_schedule() -> None:
    retry = Retry(
        exponential=Exponential(base=Duration(5), factor=3, max=Duration(8 * 3600), attempts=50, budget=Duration(3 * 86_400))
    )
    now = 0.0
    waits: list[float] = []
    while (seconds := wait(retry, len(waits) + 1, 0.0, now, lambda: 0.5)) is not None:
        waits.append(seconds)
        now += seconds
    assert [round(each) for each in waits[:9]] == [5, 15, 45, 135, 405, 1215, 3645, 10935, 28800]
    assert 3 * 86_400 - 8 * 3600 < now <= 3 * 86_400


@given(st.lists(SECONDS, max_size=10).map(planned) | POLICIES.map(lambda policy: Retry(exponential=policy)), st.integers(0))
@settings(max_examples=100, deadline=None)
def test_ten_thousand_histories_keep_what_is_promised(retry: Retry, seed: int) -> None:
    """A hundred for each of a hundred policies: some attempts succeed, some take long, some targets ask for patience."""
    random = Random(seed)
    for _ in range(100):
        now, failed = 0.0, 0
        while random.random() < 0.9:
            failed += 1
            now += random.choice((0.0, 0.1, 300.0))
            asked = random.choice((0.0, 0.0, 5.0, 3600.0, 1e9))
            seconds = wait(retry, failed, asked, now, random.random)
            if seconds is None:
                break
            policy = retry.exponential
            ideal = min(policy.base * policy.factor ** (failed - 1), policy.max) if policy else retry.schedule[failed - 1]
            least, most_asked = 0.8 * ideal, min(asked, max(2 * ideal, 60.0))
            assert least * (1 - 1e-9) <= seconds <= max(1.2 * ideal, most_asked) * (1 + 1e-9)
            assert seconds >= most_asked * (1 - 1e-9), "what the target asks for, within bounds"
            now += seconds
            assert policy is None or now <= policy.budget
        assert failed <= most(retry) + 1
