"""The settings of the forward service."""

from tas_mcp.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What concerns one target stands in its document."""

    secret_key: str = ""
    """The keys that secrets of targets are sealed with, as a file (``TAS_SECRET_KEY_FILE``): see ``tas_mcp.sealing.parse``."""
    allowed_networks: str = ""
    """Networks, separated by commas, that targets may lie in although they are not public: ``10.1.0.0/16,fd00:1::/32``."""
    trace_errors: bool = False
    """Whether attempts that failed are traced although their event is not sampled."""
