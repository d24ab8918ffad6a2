"""How many deliveries at once, in made-up time and against made-up targets."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.forward.concurrency import START, Concurrency


def play(concurrency: Concurrency, seconds: Callable[[int], float | None], rounds: int, now: float = 0.0) -> float:
    """Rounds in which as many are under way as may be; ``seconds(n)`` is how long one takes with n at once (None: it fails)."""
    for _ in range(rounds):
        under_way = concurrency.limit
        took = seconds(under_way)
        now += took or 1.0
        for _ in range(under_way):
            if took is None:
                concurrency.failed(now)
            else:
                concurrency.succeeded(now, took, under_way)
    return now


def test_it_starts_low_and_doubles_to_the_targets_limit() -> None:
    concurrency = Concurrency(64)
    limits = [concurrency.limit]
    for _ in range(5):
        play(concurrency, lambda _: 0.01, 1)
        limits.append(concurrency.limit)
    assert limits == [START, 8, 16, 32, 64, 64]


def test_a_small_limit_is_kept() -> None:
    concurrency = Concurrency(2)
    play(concurrency, lambda _: 0.01, 10)
    assert concurrency.limit == 2


def test_failures_bring_it_down_to_one_and_success_up_again_slowly() -> None:
    concurrency = Concurrency(64)
    now = play(concurrency, lambda _: 0.01, 10)
    now = play(concurrency, lambda _: None, 20, now)
    assert concurrency.limit == 1
    play(concurrency, lambda _: 0.01, 5, now)
    assert 3 <= concurrency.limit <= 7, "one a round, not doubled"


def test_one_round_of_failures_is_one_step_down() -> None:
    concurrency = Concurrency(64)
    now = play(concurrency, lambda _: 0.01, 10)
    for _ in range(64):
        concurrency.failed(now)
    assert concurrency.limit == 44


def test_a_target_that_can_do_eight_at_once_is_not_flooded() -> None:
    """Beyond eight it queues them: each takes longer the more there are."""
    concurrency, now, limits = Concurrency(1000), 0.0, []
    for _ in range(3000):
        now = play(concurrency, lambda n: 0.1 * max(1.0, n / 8), 1, now)
        limits.append(concurrency.limit)
    settled = limits[100:]
    assert 8 <= sorted(settled)[len(settled) // 2] <= 32
    assert max(settled) <= 32
    assert now > 300, "long enough to forget the best time, were it not measured anew"


def test_a_target_that_became_slower_for_good_is_not_starved() -> None:
    concurrency = Concurrency(64)
    now = play(concurrency, lambda _: 0.01, 100)
    play(concurrency, lambda _: 0.5, 1000, now)
    assert concurrency.limit >= 32


def test_what_is_not_used_does_not_grow() -> None:
    concurrency = Concurrency(64)
    for step in range(100):
        concurrency.succeeded(step, 0.01, 1)
    assert concurrency.limit == START


@pytest.mark.parametrize("most", [1, 3, 10])
def test_a_target_whose_limit_is_lowered(most: int) -> None:
    concurrency = Concurrency(64)
    play(concurrency, lambda _: 0.01, 10)
    concurrency.resize(most)
    assert concurrency.limit == most


@given(st.integers(1, 1000), st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.floats(0, 10)), max_size=200))
def test_it_stays_within_its_bounds(most: int, steps: list[tuple[bool, float, float]]) -> None:
    concurrency, now = Concurrency(most), 0.0
    for good, took, pause in steps:
        now += pause
        if good:
            concurrency.succeeded(now, took, concurrency.limit)
        else:
            concurrency.failed(now)
        assert 1 <= concurrency.limit <= most
