"""The settings of the control service."""

from typing import Annotated

from msgspec import Meta

from tas_mcp.settings import Count, PublicSettings, Seconds


class Settings(PublicSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``TAS_STORE_BYTES=1073741824`` overrides ``store_bytes``."""

    store_bytes: Count = 10 * 1024**3
    """How much all streams together may store; each gets a fixed share."""
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    """How many servers keep each stream: 1 on a laptop, 3 in a cluster."""
    dedupe_seconds: Seconds = 120.0
    """How long the broker remembers the id of an event, to store a repeated one only once."""
    event_retention_seconds: Seconds = 72 * 3600.0
    """How long events are kept; never less than until all that read them have done so."""
    process_ack_pending: Count = 8000
    """How many events may be with the process replicas, all together, at once."""
    target_ack_pending: Count = 2000
    """How many deliveries of one target may be with the forward replicas, all together, at once."""
    process_ack_wait_seconds: Seconds = 30.0
    """After how long without a word an event that a process replica holds is handed out again: to another, when that one died."""
    target_ack_wait_seconds: Seconds = 60.0
    """The same for the deliveries of a target. Replicas that live give a sign of life well before."""
    target_consumers_in_memory: bool = False
    """Keep the state of the targets' consumers in memory: faster with hundreds of active targets; made anew after a restart."""
    secret_key: str = ""
    """The keys that secrets of targets are sealed with, as a file (``TAS_SECRET_KEY_FILE``): see ``tas_mcp.sealing.parse``."""
    targets_file: str = ""
    """A file, or a folder of files, in YAML or JSON, that holds all targets; the API does not change them then."""
    janitor_seconds: Seconds = 5.0
    """How often the janitor makes its round."""
    backtest_events: Count = 100_000
    """How many stored events a backtest evaluates at most."""
    backtest_seconds: Seconds = 30.0
    """How long a backtest may take; what it has by then is the answer."""
