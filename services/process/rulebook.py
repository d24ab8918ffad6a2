"""The rules in force: compiled once per revision of a target, swapped as a whole. A target that is gone (it answered 410) takes
no events, as if it were disabled."""

from collections.abc import Sequence

from tas_mcp import status, targets
from tas_mcp.documents import Document, Faults
from tas_mcp.routing import Route, RuleBook
from tas_mcp.targets import AnyTarget, Removed


class Rules:
    """Follows the target documents; ``book`` is always whole and valid. ``revision`` is the newest that it takes account of."""

    def __init__(self) -> None:
        self.book = RuleBook.build(())
        self.revision = 0
        self.targets: dict[str, AnyTarget] = {}
        self.faults = Faults("targets")
        self._routes: dict[str, Route] = {}
        self._gone: set[str] = set()

    async def use(self, changes: Sequence[Document]) -> None:
        """Take account of changed documents. One that is not valid leaves its predecessor in force."""
        self.revision = max(self.revision, self.faults.use(changes, self._change))
        self._build()

    async def use_statuses(self, changes: Sequence[Document]) -> None:
        """Take account of changed statuses."""
        gone = {change.key for change in changes if status.decode(change.value).gone}
        back = {change.key for change in changes} - gone
        if gone - self._gone or back & self._gone:
            self._gone = (self._gone | gone) - back
            self._build()

    def _build(self) -> None:
        self.book = RuleBook.build(route for key, route in self._routes.items() if key not in self._gone)

    def _change(self, change: Document) -> None:
        target, rules = targets.compiled(change.value, None) if change.value is not None else (None, None)
        if rules is None or target is None or isinstance(target, Removed):
            self.targets.pop(change.key, None)
            self._routes.pop(change.key, None)
            return
        self.targets[change.key] = target
        if target.enabled:
            self._routes[change.key] = Route(change.key, change.revision, rules, target.split)
        else:
            self._routes.pop(change.key, None)
