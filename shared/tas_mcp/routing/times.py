"""Times: RFC 3339 texts and Unix seconds, on one scale."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

_Zoned = Annotated[datetime, msgspec.Meta(tz=True)]

EXAMPLE: Final = "2023-12-19T15:53:54Z"


def seconds(value: Any) -> float | None:
    """The Unix seconds of a number (as they are) or of an RFC 3339 text with its offset; of anything else, None."""
    if type(value) is int or type(value) is float:
        return value
    if type(value) is not str:
        return None
    try:
        return msgspec.convert(value, _Zoned).timestamp()
    except (msgspec.ValidationError, OverflowError):
        return None
