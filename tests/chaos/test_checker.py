"""The checker is itself checked: it passes good histories and sees every single fault put into one."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.checker import Answer, Attempt, Dead, Delivery, Verdict, judge

TARGETS = ("a", "b", "c", "d")


@dataclass(frozen=True)
class History:
    attempts: dict[str, Attempt] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    deliveries: tuple[Delivery, ...] = ()
    dead: tuple[Dead, ...] = ()

    def judged(self) -> Verdict:
        return judge(self.attempts, self.answers, self.deliveries, self.dead)

    def without(self, delivery: Delivery) -> "History":
        return replace(self, deliveries=tuple(d for d in self.deliveries if d != delivery))

    def having(self, *more: Delivery) -> "History":
        return replace(self, deliveries=self.deliveries + more)


GOOD = History(
    attempts={
        "e1": Attempt("h1", frozenset("ab")),
        "e2": Attempt("h2", frozenset("a")),
        "e3": Attempt("h3", frozenset("a")),
        "e4": Attempt("h4", frozenset("ab")),
        "e5": Attempt("h5", frozenset("b")),
        "e6": Attempt("h6", frozenset()),
    },
    answers={"e1": "ok", "e2": "ok", "e3": "rejected", "e4": "unknown", "e6": "ok"},
    deliveries=(
        Delivery("a", "e1", "h1"),
        Delivery("b", "e1", "h1"),
        Delivery("b", "e1", "h1"),
        Delivery("a", "e4", "h4"),
        Delivery("b", "e4", "h4"),
    ),
    dead=(Dead("a", "e2"),),
)


def test_a_good_history_passes() -> None:
    verdict = GOOD.judged()
    assert verdict.ok
    assert verdict.recovered == ("e4",)
    assert verdict.duplicates == 1
    assert verdict.counts == (6, 3, 1, 2, 5, 5, 1)
    assert str(verdict) == (
        "OK: attempted 6, ok 3, rejected 1, unknown 2, owed 5, deliveries 5, dead 1, recovered 1, duplicates 1"
    )


def test_an_empty_history_passes() -> None:
    assert History().judged().ok


def test_a_removed_delivery_is_lost() -> None:
    verdict = GOOD.without(Delivery("a", "e1", "h1")).judged()
    assert not verdict.ok
    assert verdict.lost == (Dead("a", "e1"),)
    assert "FAILED" in str(verdict)
    assert "lost 1: a/e1" in str(verdict)


def test_a_removed_dead_letter_is_lost() -> None:
    assert replace(GOOD, dead=()).judged().lost == (Dead("a", "e2"),)


def test_an_event_of_unknown_fate_that_reached_one_target_is_owed_to_all() -> None:
    assert GOOD.without(Delivery("a", "e4", "h4")).judged().lost == (Dead("a", "e4"),)


def test_an_event_of_unknown_fate_may_be_gone_altogether() -> None:
    assert GOOD.without(Delivery("a", "e4", "h4")).without(Delivery("b", "e4", "h4")).judged().ok


def test_an_invented_id_is_a_phantom() -> None:
    assert GOOD.having(Delivery("a", "e9", "h1")).judged().phantom == ("e9",)
    assert replace(GOOD, dead=(*GOOD.dead, Dead("a", "e9"))).judged().phantom == ("e9",)


def test_a_swapped_target_is_misrouted_and_lost() -> None:
    verdict = GOOD.without(Delivery("a", "e1", "h1")).having(Delivery("c", "e1", "h1")).judged()
    assert verdict.misrouted == (Dead("c", "e1"),)
    assert verdict.lost == (Dead("a", "e1"),)


def test_a_changed_payload_is_corrupt() -> None:
    assert GOOD.having(Delivery("a", "e1", "h2")).judged().corrupt == (Delivery("a", "e1", "h2"),)


def test_a_delivered_but_rejected_event_is_a_ghost() -> None:
    assert GOOD.having(Delivery("a", "e3", "h3")).judged().ghost == (Dead("a", "e3"),)
    assert replace(GOOD, dead=(*GOOD.dead, Dead("a", "e3"))).judged().ghost == (Dead("a", "e3"),)


def test_many_faults_are_shown_by_a_few_examples() -> None:
    invented = [Delivery("a", f"x{number}", "h") for number in range(1, 8)]
    assert str(GOOD.having(*invented).judged()).endswith("phantom 7: x1, x2, x3, x4, x5, ...")


def test_an_answer_to_nothing_breaks_the_history() -> None:
    with pytest.raises(ValueError, match="e9"):
        judge({}, {"e9": "ok"}, [], [])


@st.composite
def histories(draw: st.DrawFn) -> History:
    """A good history in which one event was answered ok and has exactly one trace at one target: ``k0`` at a."""
    attempts = {"k0": Attempt("h0", frozenset({"a"}) | draw(st.frozensets(st.sampled_from(TARGETS[1:]))))}
    answers: dict[str, Answer] = {"k0": "ok"}
    deliveries, dead = [Delivery("a", "k0", "h0")], []
    for number in range(1, draw(st.integers(0, 6))):
        attempts[f"k{number}"] = Attempt(f"h{number}", draw(st.frozensets(st.sampled_from(TARGETS))))
        answer: Answer | None = draw(st.sampled_from(["ok", "rejected", "unknown", None]))
        if answer:
            answers[f"k{number}"] = answer
    for key, (payload_hash, targets) in attempts.items():
        answer = answers.get(key, "unknown")
        if answer == "rejected" or (answer == "unknown" and draw(st.booleans())):
            continue
        for target in targets - ({"a"} if key == "k0" else set()):
            copies, given_up = draw(st.integers(0, 3)), draw(st.booleans())
            deliveries += [Delivery(target, key, payload_hash)] * copies
            if given_up or not copies:
                dead.append(Dead(target, key))
    return History(attempts, answers, tuple(draw(st.permutations(deliveries))), tuple(dead))


SOLE = Delivery("a", "k0", "h0")


@given(histories())
def test_any_good_history_passes(history: History) -> None:
    verdict = history.judged()
    assert verdict.ok, verdict


@given(histories())
def test_any_removed_delivery_is_caught(history: History) -> None:
    assert Dead("a", "k0") in history.without(SOLE).judged().lost


@given(histories(), st.sampled_from(TARGETS[1:]))
def test_any_swapped_target_is_caught(history: History, target: str) -> None:
    assert not history.without(SOLE).having(SOLE._replace(target=target)).judged().ok


@given(histories(), st.data())
def test_any_target_too_many_is_caught(history: History, data: st.DataObject) -> None:
    delivery = data.draw(st.sampled_from(history.deliveries))
    others = sorted({*TARGETS, "e"} - history.attempts[delivery.key].targets)
    stray = delivery._replace(target=data.draw(st.sampled_from(others)))
    assert history.having(stray).judged().misrouted == (Dead(stray.target, stray.key),)


@given(histories(), st.data())
def test_any_invented_id_is_caught(history: History, data: st.DataObject) -> None:
    delivery = data.draw(st.sampled_from(history.deliveries))
    invented = delivery._replace(key=delivery.key + "x")
    assert history.having(invented).judged().phantom == (invented.key,)


@given(histories(), st.data())
def test_any_changed_payload_is_caught(history: History, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(history.deliveries) - 1))
    changed = history.deliveries[at]._replace(payload_hash="other")
    bent = replace(history, deliveries=(*history.deliveries[:at], changed, *history.deliveries[at + 1 :]))
    assert bent.judged().corrupt == (changed,)


@given(histories(), st.data())
def test_any_rejection_of_what_arrives_is_caught(history: History, data: st.DataObject) -> None:
    delivery = data.draw(st.sampled_from(history.deliveries))
    verdict = replace(history, answers={**history.answers, delivery.key: "rejected"}).judged()
    assert Dead(delivery.target, delivery.key) in verdict.ghost
