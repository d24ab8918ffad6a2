"""Who may come in: API keys and tokens, and the callers that they stand for."""

from tas_mcp.auth.authentication import PRESENCE, Authentication, knows_callers
from tas_mcp.auth.credentials import SUBPROTOCOL, credential
from tas_mcp.auth.failures import AuthenticationFailed, Failure
from tas_mcp.auth.issuer import on_loopback

__all__ = [
    "PRESENCE",
    "SUBPROTOCOL",
    "Authentication",
    "AuthenticationFailed",
    "Failure",
    "credential",
    "knows_callers",
    "on_loopback",
]
