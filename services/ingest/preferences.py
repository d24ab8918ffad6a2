"""What a client would like (RFC 7240): the seconds that it waits for an answer. Pure."""

import re
from collections.abc import Sequence

MAX_SECONDS = 30
"""However long a client would wait, so long does an answer take at most."""

_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(;.*)?', re.IGNORECASE | re.DOTALL).fullmatch


def wait(headers: Sequence[str]) -> int:
    """The seconds of the first ``wait`` preference in the ``Prefer`` headers, at most ``MAX_SECONDS``; 0 where there is none that
    can be understood: a preference is never an error."""
    for preference in ",".join(headers).split(","):
        if found := _WAIT(preference):
            return min(int(found.group(1)), MAX_SECONDS)
    return 0
