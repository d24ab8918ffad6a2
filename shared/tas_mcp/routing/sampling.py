"""Stable shares: the same key always falls to the same side, on every replica and after every restart.

The rule kept here: no state and no chance, only a hash of what is given. blake2b is no secret; it only spreads evenly.
"""

import hashlib
import math
from typing import Final

_SPAN: Final = 2.0**52


def share(*parts: str) -> float:
    """A number from 0 (included) to 1 (excluded) that depends on the parts alone and is spread evenly."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 12) / _SPAN


def claim(member: str, key: str, weight: int) -> float:
    """How strongly a member of a group claims a key: the largest claim takes it.

    Weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): each member takes keys in proportion to its weight, and
    a change of one weight moves only the keys that this member wins or loses. A weight of 0 claims nothing (0.0); any
    other claim is greater.
    """
    if weight <= 0:
        return 0.0
    return -weight / math.log((share(member, key) * _SPAN + 0.5) / _SPAN)
