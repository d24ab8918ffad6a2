"""All that talks to NATS: a connection that heals itself, a publisher with bounded windows, a credit-based puller, and
requests to JetStream's management API. Nothing outside this package imports nats-py."""

from tas_mcp.broker.connection import Connection
from tas_mcp.broker.jetstream import BrokerError, JetStream
from tas_mcp.broker.publisher import Publisher
from tas_mcp.broker.puller import Pulled, Puller
from tas_mcp.broker.wire import Message

__all__ = ["BrokerError", "Connection", "JetStream", "Message", "Publisher", "Pulled", "Puller"]
