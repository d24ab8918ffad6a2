"""Stable shares: even, and moved by no more than what changed."""

from tas_mcp.routing.sampling import claim, share

KEYS = [f"e-{number}" for number in range(20_000)]


def taken(weights: dict[str, int]) -> list[str]:
    """The member that takes each key."""
    return [max(weights, key=lambda member: claim(member, key, weights[member])) for key in KEYS]


def test_a_share_is_stable_and_even() -> None:
    assert share("r", "e-1") == share("r", "e-1") == 0.6927062860000479
    shares = [share("r", key) for key in KEYS]
    assert 0 <= min(shares) < 0.001
    assert 0.999 < max(shares) < 1
    assert abs(sum(shares) / len(shares) - 0.5) < 0.01


def test_parts_are_kept_apart() -> None:
    assert share("ab", "c") != share("a", "bc")


def test_members_take_keys_in_proportion_to_their_weights() -> None:
    found = taken({"a": 1, "b": 3, "c": 0})
    assert abs(found.count("a") / len(KEYS) - 0.25) < 0.02
    assert found.count("c") == 0


def test_a_change_moves_only_its_share() -> None:
    before, heavier = taken({"a": 1, "b": 1, "c": 1}), taken({"a": 1, "b": 1, "c": 2})
    moved = [(old, new) for old, new in zip(before, heavier, strict=True) if old != new]
    assert {new for _, new in moved} == {"c"}
    assert abs(len(moved) / len(KEYS) - (2 / 4 - 1 / 3)) < 0.02
    without = taken({"a": 1, "b": 1})
    assert all(old in {new, "c"} for old, new in zip(before, without, strict=True))
