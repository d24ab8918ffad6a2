"""What event types and sources may look like, where the operator says so. Pure."""

from tas_mcp.errors import Flaw, Misconfigured, Rejected
from tas_mcp.routing.patterns import Pattern, regex


class Names:
    """Patterns (RE2) that the whole of an event type, and of a source, must match; an empty one takes any."""

    def __init__(self, event_type: str, source: str) -> None:
        """
        Raises:
            Misconfigured: one is no pattern; the text names the setting.
        """
        self._rules = [
            (pointer, given, _compiled(setting, given))
            for setting, pointer, given in (
                ("TAS_EVENT_TYPE_PATTERN", "/event_type", event_type),
                ("TAS_SOURCE_PATTERN", "/source", source),
            )
        ]

    def check(self, event_type: str, source: str) -> None:
        """
        Raises:
            Rejected: ``INVALID_EVENT``.
        """
        for (pointer, given, pattern), text in zip(self._rules, (event_type, source), strict=True):
            if pattern is not None and not pattern.test(text):
                what = Flaw(pointer, f"must match {given}")
                raise Rejected("INVALID_EVENT", f"{what.pointer}: {what.detail}", [what])


def _compiled(setting: str, given: str) -> Pattern | None:
    if not given:
        return None
    try:
        regex(given)  # by itself: a bracket too many must not become one of ours
        return regex(f"^(?:{given})$")
    except ValueError as error:
        raise Misconfigured(f"{setting}: {error}; write a pattern of RE2") from None
