"""How fast a target may be sent to, in made-up time."""

from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.rate import Rate


def test_a_burst_then_the_pace() -> None:
    rate = Rate(10, 3)
    assert [round(rate.take(100.0), 6) for _ in range(6)] == [0, 0, 0, 0.1, 0.2, 0.3]


def test_a_rest_gives_the_burst_back_but_no_more() -> None:
    rate = Rate(10, 3)
    for _ in range(3):
        rate.take(0.0)
    assert [round(rate.take(1000.0), 6) for _ in range(4)] == [0, 0, 0, 0.1]


@given(st.floats(0.1, 1000), st.integers(1, 50), st.lists(st.floats(0, 2), min_size=1, max_size=100))
def test_in_no_stretch_of_time_more_than_burst_and_pace_allow(per_second: float, burst: int, pauses: list[float]) -> None:
    rate, now, sent = Rate(per_second, burst), 0.0, []
    for pause in pauses:
        now += pause
        sent.append(now + rate.take(now))
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            assert last - first + 1 <= burst + (sent[last] - sent[first]) * per_second + 1e-3


def test_more_than_the_burst_is_taken_at_once_and_those_who_come_next_wait() -> None:
    rate = Rate(10, 5)
    assert rate.take(100.0, amount=50) == 0
    assert round(rate.next - 100.0, 6) == 4.6  # 50 places, of which the bucket held 5 and the next is free when it holds one


def test_each_replica_takes_its_share() -> None:
    rate = Rate(10, 4)
    assert [round(rate.take(100.0, replicas=2), 6) for _ in range(4)] == [0, 0, 0.2, 0.4]
    assert round(rate.take(1000.0, replicas=1), 6) == 0
