"""The circuit breaker, in made-up time."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.forward.breaker import WINDOW_SECONDS, Breaker, State
from tas_mcp.durations import Duration
from tas_mcp.targets import BreakerPolicy

POLICY = BreakerPolicy(failures=5, ratio=0.5, minimum=10, cooldown=Duration(30), max_cooldown=Duration(100))


def tripped(at: float = 0.0) -> Breaker:
    breaker = Breaker(POLICY)
    for _ in range(POLICY.failures):
        breaker.failed(at)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(POLICY)
    for _ in range(POLICY.failures - 1):
        breaker.failed(0.0)
    assert breaker.state.name == "CLOSED"
    breaker.succeeded(0.0)
    for _ in range(POLICY.failures - 1):
        breaker.failed(1.0)
    assert breaker.state.name == "CLOSED", "a success between them ends the row"
    breaker.failed(2.0)
    assert (breaker.state, breaker.open_until) == (State.OPEN, 32.0)


def test_the_share_of_failures_opens_it() -> None:
    breaker = Breaker(POLICY)
    for second in range(4):
        breaker.succeeded(second)
        breaker.failed(second)
    breaker.succeeded(5)
    assert breaker.state.name == "CLOSED", "nine are too few to tell"
    breaker.failed(5)
    assert breaker.state is State.OPEN


def test_what_is_long_ago_does_not_count() -> None:
    breaker = Breaker(POLICY)
    for _ in range(4):
        breaker.failed(0.0)
    for _ in range(5):
        breaker.succeeded(0.0)
    late = WINDOW_SECONDS + 1
    breaker.failed(late)
    assert breaker.state.name == "CLOSED", "5 of 10 failed, but 4 of them long ago"


def test_each_failed_probe_doubles_the_wait_up_to_a_limit() -> None:
    breaker, now, waits = tripped(), 0.0, []
    for _ in range(5):
        waits.append(breaker.open_until - now)
        assert not breaker.due(breaker.open_until - 0.1)
        now = breaker.open_until
        assert breaker.due(now)
        breaker.probe()
        breaker.failed(now)
    assert waits == [30, 60, 100, 100, 100]


def test_a_probe_that_succeeds_closes_it_and_forgets() -> None:
    breaker = tripped()
    breaker.probe()
    assert breaker.state.name == "HALF_OPEN"
    breaker.succeeded(30.0)
    assert breaker.state.name == "CLOSED"
    breaker.failed(31.0)
    assert breaker.state.name == "CLOSED"
    for _ in range(POLICY.failures):
        breaker.failed(31.0)
    assert breaker.open_until == 61.0, "the first wait again"


def test_stragglers_of_before_it_opened_change_nothing() -> None:
    breaker = tripped()
    breaker.succeeded(1.0)
    breaker.failed(1.0)
    assert (breaker.state, breaker.open_until) == (State.OPEN, 30.0)


def test_what_another_replica_found() -> None:
    breaker = Breaker(POLICY)
    breaker.adopt(50.0, 0.0, 10.0)
    assert (breaker.state, breaker.open_until) == (State.OPEN, 50.0)
    breaker.adopt(40.0, 0.0, 11.0)
    assert breaker.open_until == 50.0, "the later time counts"
    breaker.adopt(0.0, 9.0, 12.0)
    assert breaker.state is State.OPEN, "it was up before it went down"
    breaker.adopt(0.0, 12.5, 13.0)
    assert breaker.state.name == "CLOSED"


class Machine(RuleBasedStateMachine):
    """Whatever happens: open means a time in the future was set, at most one probe leads out of it, and all is bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.breaker = Breaker(POLICY)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def succeed(self) -> None:
        before = self.breaker.state
        self.breaker.succeeded(self.now)
        assert self.breaker.state.name == ("OPEN" if before is State.OPEN else "CLOSED")

    @rule(times=st.integers(1, 12))
    def fail(self, times: int) -> None:
        for _ in range(times):
            self.breaker.failed(self.now)
        assert times < POLICY.failures or self.breaker.state is State.OPEN

    @precondition(lambda self: self.breaker.due(self.now))
    @rule(good=st.booleans())
    def try_one(self, good: bool) -> None:
        self.breaker.probe()
        (self.breaker.succeeded if good else self.breaker.failed)(self.now)
        assert self.breaker.state.name == ("CLOSED" if good else "OPEN")
        assert not self.breaker.due(self.now)

    @rule(seconds=st.floats(0, 200))
    def hear(self, seconds: float) -> None:
        self.breaker.adopt(self.now + seconds, 0.0, self.now)

    @invariant()
    def it_is_open_for_a_bounded_time(self) -> None:
        if self.breaker.state is State.OPEN:
            assert 0 < self.breaker.open_until <= self.now + 200
        else:
            assert self.breaker.open_until == 0 or self.breaker.state.name == "HALF_OPEN"


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
