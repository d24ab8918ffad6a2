"""Event ids for events that come without one."""

import secrets


def uuid7(now_ns: int) -> str:
    """A UUID version 7 (RFC 9562 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    value = (now_ns // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
