"""Rules that people try out before they are saved: a rule, or a target with all of its rules. Pure."""

from typing import Any

from tas_mcp import targets
from tas_mcp.errors import Flaw, Rejected
from tas_mcp.routing import RuleSet
from tas_mcp.targets import AnyTarget

_HOST: dict[str, Any] = {"id": "draft", "type": "webhook", "endpoint": "http://localhost/"}
"""A target for a rule that comes without one, so that it is checked as all are."""


def draft(rule: Any, target: Any, current: AnyTarget | None = None) -> RuleSet:
    """Compile what a request holds as ``rule`` or ``target`` (None: not there). A rule may come without an id; masked secrets of
    a target are those of ``current``.

    Raises:
        Rejected: ``INVALID_REQUEST`` where there is not one of both, ``INVALID_RULES`` or ``INVALID_TARGET`` with every flaw.
    """
    if (rule is None) == (target is None):
        detail = "send either `rule` (one rule) or `target` (a target with its rules)"
        raise Rejected("INVALID_REQUEST", detail, [Flaw("", detail)])
    if rule is None:
        try:
            return targets.check(targets.unmask(target, current))[1]
        except Rejected as error:
            raise Rejected(
                error.code, error.detail, [Flaw("/target" + each.pointer, each.detail) for each in error.flaws]
            ) from None
    named = {"id": "rule", **rule} if isinstance(rule, dict) else rule
    try:
        return targets.check({**_HOST, "rules": [named]})[1]
    except Rejected as error:
        flaws = [Flaw("/rule" + each.pointer.removeprefix("/rules/0"), each.detail) for each in error.flaws]
        raise Rejected("INVALID_RULES", f"the rule is not valid: {flaws[0].pointer}: {flaws[0].detail}", flaws) from None
