"""gzip bodies, unpacked in pieces and within a limit."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.compression import MAX_MEMBERS, PIECE, gzipped, inflated
from tas_mcp.errors import Rejected


@given(st.lists(st.binary(max_size=1000), min_size=1, max_size=5), st.integers(0, 9))
def test_what_was_packed_is_unpacked(members: list[bytes], level: int) -> None:
    whole = b"".join(members)
    body = b"".join(gzip.compress(member, level) for member in members)
    assert b"".join(inflated(body, len(whole))) == whole
    if whole:
        with pytest.raises(Rejected, match=f"more than {len(whole) - 1} bytes"):
            list(inflated(body, len(whole) - 1))


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 10 * PIECE + 7])
@pytest.mark.parametrize("level", [0, 9])
def test_it_comes_in_pieces(size: int, level: int) -> None:
    whole = bytes(number * number % 251 for number in range(size))
    pieces = list(inflated(gzip.compress(whole, level), size))
    assert b"".join(pieces) == whole
    assert max(map(len, pieces)) <= PIECE
    assert len(pieces) >= size / PIECE


def test_a_bomb_costs_no_more_than_its_limit() -> None:
    pieces: list[bytes] = []
    with pytest.raises(Rejected, match="more than 1000000 bytes") as error:
        pieces.extend(inflated(gzip.compress(b"\0" * 30_000_000), 1_000_000))
    assert error.value.code == "TOO_LARGE"
    assert 900_000 < sum(map(len, pieces)) <= 1_000_000


def test_a_body_of_empty_members_ends_too() -> None:
    empty = gzip.compress(b"")
    assert b"".join(inflated(empty * MAX_MEMBERS, 0)) == b""
    with pytest.raises(Rejected, match="more than 1000 gzip members"):
        list(inflated(empty * (MAX_MEMBERS + 1), 0))


@given(st.binary(max_size=200), st.data())
def test_a_part_is_not_the_whole(whole: bytes, data: st.DataObject) -> None:
    body = gzip.compress(whole)
    with pytest.raises(Rejected) as error:
        list(inflated(body[: data.draw(st.integers(0, len(body) - 1))], 1000))
    assert error.value.code == "INVALID_EVENT"


@pytest.mark.parametrize(
    ("encoding", "packed"), [("", False), ("identity", False), (" Identity ", False), ("gzip", True), ("X-GZip", True)]
)
def test_encodings(encoding: str, packed: bool) -> None:
    assert gzipped(encoding) is packed


@pytest.mark.parametrize("encoding", ["deflate", "br", "zstd", "gzip, gzip", "identity, gzip", "gzip;q=1"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(Rejected, match="as it is, or as gzip") as error:
        gzipped(encoding)
    assert error.value.code == "UNSUPPORTED_ENCODING"
