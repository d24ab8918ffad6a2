"""The errors that decide what happens next.

Raise them where a thing goes wrong; only an edge catches them (HTTP handler, consumer, lane) and maps the class, never the
text, to an answer. Returning means done. Everything else is one of three:

* ``Rejected``     will never work: 4xx for a client, the dead letters for a delivery
* ``Overloaded``   works later, and we say when: 429 with Retry-After, parked until then
* ``Unavailable``  a dependency is away: 503 with Retry-After, tried again by the schedule

``Misconfigured`` ends the start of a process (exit code 2) and is never seen by a client.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self


class Flaw(NamedTuple):
    """One thing that is wrong in a document: where (an RFC 6901 JSON pointer) and what."""

    pointer: str
    detail: str


class TasError(Exception):
    """The root of what this package raises on purpose; ``str()`` is fit to be shown to the caller."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def bare(self) -> Self:
        """Itself, without what led to it. The frames of a traceback hold all that was at hand, a client's body too; an error that
        is kept as an answer must not keep that alive, least of all in a circle that only the garbage collector finds."""
        self.__traceback__ = self.__context__ = None
        return self


class Rejected(TasError):
    """Will never work as it is. ``code`` is the stable name that clients switch on (``INVALID_EVENT``, ``NOT_FOUND`` ...)."""

    def __init__(self, code: str, detail: str, flaws: Sequence[Flaw] = ()) -> None:
        super().__init__(detail)
        self.code = code
        self.flaws = tuple(flaws)


class Quota(NamedTuple):
    """A limit that was reached: ``amount`` of ``unit`` in ``seconds``. The names are those of the RateLimit headers."""

    name: str
    unit: str
    amount: int
    seconds: int


class Overloaded(TasError):
    """Works later: after ``retry_after`` seconds. ``quota``: the limit that was reached, where it has a name."""

    def __init__(self, detail: str, retry_after: float, quota: Quota | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after
        self.quota = quota


class Unavailable(TasError):
    """A dependency is away, full or slow; the same call may work after about ``retry_after`` seconds."""

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Misconfigured(TasError):
    """A setting, a port, a missing program: the process cannot start, and the text says what to change."""
