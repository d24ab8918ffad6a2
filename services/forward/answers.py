"""What a target's answer means. Pure but for the clock that a date is held against."""

import time
from collections.abc import Container, Iterable
from email.utils import parsedate_to_datetime

from services.forward.connection import Answer
from services.forward.verdict import Failed, Gone, Refused

GONE = 410
RETRYABLE = frozenset((408, 425, 429, *range(500, 600)))
"""What time may heal: of the client errors those that say so."""
SHOWN_BYTES = 200
"""How much of a refusing answer's body its error shows."""


def check_answer(answer: Answer, retryable: Container[int] = RETRYABLE) -> None:
    """2xx alone is success; redirects are not followed.

    Raises:
        Failed: a ``retryable`` status.
        Gone: 410.
        Refused: all else.
    """
    status = answer.status
    if 200 <= status < 300:
        return
    text = answer.body.decode(errors="replace")
    shown = answer.body[:SHOWN_BYTES].decode(errors="replace").strip()
    detail = f"the target answered {status}" + (f": {shown}" if shown else "")
    if status in retryable:
        raise Failed(status, detail, retry_after(answer.retry_after), response=text)
    if status == GONE:
        raise Gone(status, detail, response=text)
    raise Refused(status, detail, response=text)


def statuses(given: Iterable[int | str]) -> frozenset[int]:
    """The retryable ones, with those that a document adds: statuses, and classes like ``4xx``."""
    added = (range(int(each[0]) * 100, int(each[0]) * 100 + 100) if isinstance(each, str) else (each,) for each in given)
    return RETRYABLE.union(*added)


def retry_after(value: str) -> float:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110 10.2.3: seconds or a date); 0 for none or nonsense."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
