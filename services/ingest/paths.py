"""The paths of the event routes."""

EVENTS_PATH = "/api/v1/events"
BATCH_PATH = "/api/v1/events/batch"
WS_PATH = "/api/v1/events/ws"
STREAM_PATH = "/api/v1/events/stream"
