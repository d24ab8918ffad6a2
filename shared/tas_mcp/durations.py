"""Durations as people write them: ``250ms``, ``5s``, ``1m30s``, ``2h``; integers are nanoseconds (the classic form)."""

import re
from typing import Any, Self

_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)")
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h|d))+")


class Duration(float):
    """A number of seconds that remembers nothing but its length; ``str()`` gives the short form."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read text or integer nanoseconds.

        Raises:
            ValueError: it is neither, or negative.
        """
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value / 1e9)
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            return cls(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value)))
        raise ValueError(f"{value!r} is no duration: write 250ms, 5s, 1m30s or 2h")

    def __str__(self) -> str:
        for unit in ("h", "m", "s", "ms", "us"):
            count = round(self / _UNITS[unit], 9)
            if count >= 1 and count == int(count):
                return f"{int(count)}{unit}"
        return f"{round(self / _UNITS['ns'])}ns" if self else "0s"


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
