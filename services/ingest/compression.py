"""Bodies that come compressed (RFC 9110 8.4): gzip, unpacked in pieces and never beyond a limit. Pure."""

import zlib
from collections.abc import Iterator

from tas_mcp.errors import Rejected

PIECE = 65_536
"""Bytes that go into, and that come out of, one step: well below a millisecond of work."""
MAX_MEMBERS = 1000
"""How many gzip members a body may be made of: each costs some work, and may hold nothing."""
_GZIP = 16 + zlib.MAX_WBITS


def gzipped(encoding: str) -> bool:
    """Whether a body with this Content-Encoding is gzip; if not, it is not compressed.

    Raises:
        Rejected: ``UNSUPPORTED_ENCODING``.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return False
    if encoding in ("gzip", "x-gzip"):
        return True
    raise Rejected("UNSUPPORTED_ENCODING", f"Content-Encoding {encoding!r}: a body is sent as it is, or as gzip")


def inflated(body: bytes, limit: int) -> Iterator[bytes]:
    """What the gzip members of a body hold, in pieces; the caller may do something else after each (some are empty).

    Raises:
        Rejected: ``INVALID_EVENT``: it is no gzip, or not whole; ``TOO_LARGE``: it holds more than ``limit`` bytes.
    """
    size, members = 0, 0
    member = zlib.decompressobj(_GZIP)
    for start in range(0, len(body), PIECE):
        given = body[start : start + PIECE]
        while given:
            if member.eof:
                members += 1
                if members == MAX_MEMBERS:
                    raise Rejected("INVALID_EVENT", f"the body is made of more than {MAX_MEMBERS} gzip members")
                member = zlib.decompressobj(_GZIP)
            try:
                piece = member.decompress(given, PIECE)
            except zlib.error as error:
                raise Rejected("INVALID_EVENT", f"the body is no gzip: {error}") from None
            size += len(piece)
            if size > limit:
                raise Rejected("TOO_LARGE", f"the body has more than {limit} bytes when it is unpacked")
            yield piece
            given = member.unconsumed_tail or member.unused_data
    if not member.eof:
        raise Rejected("INVALID_EVENT", "the body is no whole gzip: its end is missing")
