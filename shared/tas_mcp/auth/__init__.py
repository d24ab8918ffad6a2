"""Who may come in: API keys and tokens, and the callers that they stand for."""

from tas_mcp.auth.authentication import PRESENCE, Authentication, on_loopback
from tas_mcp.auth.credentials import SUBPROTOCOL, credential
from tas_mcp.auth.failures import AuthenticationFailed, Failure

__all__ = ["PRESENCE", "SUBPROTOCOL", "Authentication", "AuthenticationFailed", "Failure", "credential", "on_loopback"]
