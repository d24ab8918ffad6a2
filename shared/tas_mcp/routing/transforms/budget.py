"""What one transform of one event may cost.

The rule kept here: work is counted, not timed. So the same transform of the same event comes out the same on a loaded machine, in
a backtest and in a test, and no clock is needed. What a piece of work costs stands where it is done, in units of about a
microsecond, rather too high than too low; what grows with its operands is charged before it is done.
"""

from typing import Any, Final

import msgspec

LIMIT: Final = 20_000
MAX_INT_BITS: Final = 1024  # as large as a float can be

_encode = msgspec.json.Encoder(enc_hook=lambda _: None).encode


class Exhausted(Exception):
    """The budget is spent."""

    def __init__(self) -> None:
        super().__init__(f"it takes more work than the {LIMIT:,} units allowed for one event")


class Budget:
    """The budget of one call."""

    __slots__ = ("left",)

    def __init__(self, limit: int = LIMIT) -> None:
        self.left = limit

    def charge(self, cost: int) -> None:
        """Spend ``cost`` units; ``Exhausted`` when they are not there."""
        self.left -= cost
        if self.left < 0:
            raise Exhausted

    def charge_for(self, value: Any, divisor: int = 256) -> None:
        """Charge for handling a value once, all that is in it included: a unit for each ``divisor`` characters."""
        if isinstance(value, str):
            self.charge(len(value) // divisor)
        elif isinstance(value, list | dict | tuple):
            self.charge(size(value) // divisor)
        elif isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise OverflowError(f"a number has more than {MAX_INT_BITS} bits")


def size(value: Any) -> int:
    """The length of a value as JSON."""
    return len(_encode(value))
