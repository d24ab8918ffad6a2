"""Event ids that we make: UUID version 7."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.ids import uuid7


@given(st.integers(0, 2**48 * 1_000_000 - 1))
def test_a_version_7_uuid_of_its_time(now_ns: int) -> None:
    found = uuid.UUID(uuid7(now_ns))
    assert str(found) == uuid7(now_ns)[:13] + str(found)[13:], "the time part is not in the canonical form"
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == now_ns // 1_000_000


def test_ids_of_one_moment_differ() -> None:
    assert len({uuid7(1_700_000_000_000_000_000) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("later_ns", [1_000_000, 10**9, 10**18])
def test_later_ids_sort_behind_earlier_ones(later_ns: int) -> None:
    now = 1_700_000_000_000_000_000
    assert uuid7(now) < uuid7(now + later_ns)
