"""The settings of the forward service."""

from tas_mcp.settings import ServiceSettings


class Settings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing of its own yet: what concerns one target stands in its document."""
