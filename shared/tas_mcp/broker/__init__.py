"""All that talks to NATS: a connection that heals itself, a publisher with bounded windows, a credit-based puller, and
requests to JetStream's management API. Nothing outside this package imports nats-py."""

from tas_mcp.broker.connection import Connection, Message
from tas_mcp.broker.jetstream import BrokerError, JetStream
from tas_mcp.broker.publisher import Publisher
from tas_mcp.broker.puller import Pulled, Puller

__all__ = ["BrokerError", "Connection", "JetStream", "Message", "Publisher", "Pulled", "Puller"]
