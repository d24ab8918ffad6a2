"""Durations as people write them: ``250ms``, ``5s``, ``1m30s``, ``2h``; integers are nanoseconds (the classic form)."""

import re
from typing import Any, Self

_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9}
_MOST = 3650 * _UNITS["d"]
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)", re.ASCII)
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h|d))+", re.ASCII)


class Duration(float):
    """A number of seconds that remembers nothing but its length; ``str()`` gives the short form."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read text or integer nanoseconds.

        Raises:
            ValueError: it is neither, or negative, or longer than ten years.
        """
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            nanoseconds: float = value
        elif isinstance(value, str) and _WHOLE.fullmatch(value):
            nanoseconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
        else:
            raise ValueError(f"{value!r:.80} is no duration: write 250ms, 5s, 1m30s or 2h")
        if nanoseconds > _MOST:
            raise ValueError("is longer than ten years (3650d)")
        return cls(nanoseconds / 1e9)

    def __str__(self) -> str:
        nanoseconds = round(self * 1e9)
        for unit in ("h", "m", "s", "ms", "us", "ns"):
            if nanoseconds and nanoseconds % _UNITS[unit] == 0:
                return f"{nanoseconds // _UNITS[unit]}{unit}"
        return "0s"


def from_json(kind: type, value: Any) -> Any:
    """The ``dec_hook`` of msgspec for documents that hold durations."""
    if kind is Duration:
        return Duration.parse(value)
    raise NotImplementedError(kind)


def to_json(value: Any) -> Any:
    """The ``enc_hook`` of msgspec, likewise."""
    if isinstance(value, Duration):
        return str(value)
    raise NotImplementedError(type(value))
