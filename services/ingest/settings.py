"""The settings of the ingest service."""

from tas_mcp.settings import Count, PublicSettings


class Settings(PublicSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``TAS_HTTP_PORT=8081`` overrides ``http_port``."""

    max_event_bytes: Count = 1_048_576
    max_batch_events: Count = 1000
    max_batch_bytes: Count = 10_485_760
    max_depth: Count = 32
    """How deep the JSON of an event's data may be nested."""
    max_metadata: Count = 64
    """How many metadata entries an event may have."""
    publish_window: Count = 4096
    """How many events may wait for the broker's ack before more are refused with 503."""
    express: bool = True
    """Whether plain event POSTs are answered by the express lane (services/ingest/express.py)."""
    express_bytes: Count = 65_536
    """The largest body that the express lane takes."""
    max_connections: Count = 10_000
    """How many connections the express lane holds open."""
    body_seconds: float = 10.0
    """How long a client may take to send a request's body."""
