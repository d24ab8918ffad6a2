"""What the tiers found out about a target: the documents of the bucket ``tas_status`` (key = target id), written by ``forward``.

A document is rewritten as a whole by compare-and-set, so that replicas do not undo each other. Pure.
"""

import msgspec
from msgspec import Struct


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times are Unix seconds; 0: never, or not."""

    gone: bool = False
    """It answered 410: in effect it is disabled, until somebody enables it."""
    gone_recorded: bool = False
    """The audit log says that it is gone."""
    open_until: float = 0.0
    """Its circuit breaker is open until then."""
    closed_at: float = 0.0
    """Its circuit breaker was last closed then."""
    probe_until: float = 0.0
    """The replica ``probe_by`` probes it, and has until then to say how that went."""
    probe_by: str = ""
    healthy: bool | None = None
    """What its last health check said, at ``checked_at``; None: it has none, or there was none yet."""
    checked_at: float = 0.0
    last_success: float = 0.0
    last_error: str = ""
    last_error_at: float = 0.0


NONE = Status()

_decoder = msgspec.json.Decoder(Status)
encode = msgspec.json.Encoder().encode


def decode(value: bytes | None) -> Status:
    """Read a document; what is missing or cannot be read says nothing."""
    try:
        return _decoder.decode(value) if value else NONE
    except msgspec.MsgspecError:
        return NONE
