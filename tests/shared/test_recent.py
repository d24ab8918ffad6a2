"""The bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.recent import Recent


def test_what_is_kept_is_the_same_as_before() -> None:
    recent: Recent[int, list[int]] = Recent(lambda key: [key], 2)
    assert recent.get(1) is None
    first = recent.find(1)
    assert first == [1]
    assert recent.find(1) is recent.get(1) is first


@given(st.integers(1, 5), st.lists(st.integers(0, 12)))
def test_the_last_ones_used_are_kept_and_never_more_than_twice_as_many(size: int, used: list[int]) -> None:
    recent: Recent[int, object] = Recent(lambda _: object(), size)
    values: dict[int, object] = {}
    for key in used:
        lately = list(values)[-size:]
        assert key not in lately or recent.get(key) is values[key]
        found = recent.find(key)
        values.pop(key, None)
        values[key] = found
        assert len(recent) <= 2 * size
