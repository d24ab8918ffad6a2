"""The settings of the process service."""

from tas_mcp.settings import Count, ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``TAS_IN_FLIGHT=500`` overrides ``in_flight``."""

    in_flight: Count = 1500
    """How many events may be held at once: routed, their deliveries or their outcome not stored yet."""
