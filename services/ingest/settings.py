"""The settings of the ingest service."""

from typing import Annotated

from msgspec import Meta

from tas_mcp.settings import Count, Port, PublicSettings, Seconds

Limit = Annotated[int, Meta(ge=0)]
"""0: no limit."""


class Settings(PublicSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``TAS_HTTP_PORT=8081`` overrides ``http_port``."""

    grpc_port: Port = 50051
    max_event_bytes: Count = 1_048_576
    max_batch_events: Count = 1000
    max_batch_bytes: Count = 10_485_760
    max_depth: Count = 32
    """How deep the JSON of an event's data may be nested."""
    max_metadata: Count = 64
    """How many metadata entries an event may have."""
    event_type_pattern: str = ""
    """A pattern (RE2) that the whole of an event type must match; empty: any."""
    source_pattern: str = ""
    """The same for sources."""
    publish_window: Count = 4096
    """How many events may wait for the broker's ack before more are refused with 503."""
    express: bool = True
    """Whether plain event POSTs are answered by the express lane (services/ingest/express.py)."""
    express_bytes: Count = 65_536
    """The largest body that the express lane takes."""
    max_connections: Count = 10_000
    """How many connections the express lane holds open."""
    max_grpc_calls: Count = 10_000
    """How many gRPC calls may be under way before more are refused with RESOURCE_EXHAUSTED."""
    max_waits: Count = 1000
    """How many requests may wait for what becomes of their event (``Prefer: wait``); more are answered at once."""
    body_seconds: float = 10.0
    """How long a client may take to send a request's body."""
    rate_requests: Limit = 0
    """How many requests a caller may send in a second; over all replicas, as all rates."""
    rate_events: Limit = 0
    rate_bytes: Limit = 0
    rate_total_requests: Limit = 0
    """How many requests all callers together may send in a second."""
    rate_total_events: Limit = 0
    rate_total_bytes: Limit = 0
    rate_address_requests: Limit = 0
    """How many requests may come from one client address in a second, whoever calls."""
    rate_burst_seconds: Count = 1
    """The rate of how many seconds may come at once."""
    rate_new_types: Limit = 10_000
    """How many event types that were never seen a caller may bring in an hour."""
    max_listeners: Count = 500
    """How many may listen to the stored events at once, over all protocols."""
    listener_events: Count = 10_000
    """How many events may wait for one listener before it is cut."""
    listener_bytes: Count = 4 * 1024 * 1024
    """How large these events may be together."""
    websocket_window: Count = 256
    """How many frames of one WebSocket may wait for their answers before no more are read."""
    websocket_ping_seconds: Seconds = 20.0
    """After so long without a word a client is pinged; after half as long again without an answer its connection is closed."""
    websocket_idle_seconds: Seconds = 300.0
    """A WebSocket on which no frame came for so long, and that has no subscription, is closed."""
    sse_heartbeat_seconds: Seconds = 15.0
    """How often a stream of server-sent events that has nothing to tell shows that it lives."""
    allowed_origins: str = ""
    """The web pages that may open a WebSocket or a stream: their origins, separated by commas; ``*`` is any."""
