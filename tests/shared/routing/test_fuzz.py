"""A short run of what ``make fuzz`` does at length."""

from tests.shared.routing.fuzz import Fuzz


def test_nothing_escapes_from_random_documents_and_events() -> None:
    fuzz = Fuzz(seed=1)
    accepted = sum(fuzz.document() for _ in range(200))
    assert 30 < accepted < 200
