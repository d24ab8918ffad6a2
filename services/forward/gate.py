"""How many deliveries a lane may have under way: what its document says, what its target can bear, and whether it is up at all.

The breaker is shared: a replica that opens its own tells the others until when, and of those that see the time come only one
probes, by a lease in the target's status. A lane without a status bucket goes by its own breaker.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec

from services.forward.breaker import Breaker, State
from services.forward.concurrency import Concurrency
from services.forward.statuses import Statuses
from services.forward.verdict import Failed, Gone, Refused
from tas_mcp import telemetry
from tas_mcp.broker import BrokerError
from tas_mcp.errors import Rejected, Unavailable
from tas_mcp.status import Status
from tas_mcp.targets import AnyTarget, Removed

log = telemetry.logger("gate")

REMOVAL_CONCURRENCY = 64
LEASE_MARGIN_SECONDS = 5.0
"""A probe's lease outlives its timeout by this."""
TOO_MANY = 429
SUCCESS_SECONDS = 5.0
"""How often a success is noted at most."""

CIRCUIT = telemetry.gauge("mcp_circuit_state", "The target's circuit breaker: 0 closed, 1 half open, 2 open", ["target"])


class Gate:
    """``width`` is how many may be under way; 0: none, and none is to be pulled; ``probing`` that the one is a probe. ``changed``
    is called when they may differ."""

    def __init__(self, target: AnyTarget | Removed, statuses: Statuses, changed: Callable[[], None]) -> None:
        self._target = target
        self._statuses = statuses
        self._changed = changed
        self._breaker = _breaker(target)
        self._concurrency = Concurrency(REMOVAL_CONCURRENCY if isinstance(target, Removed) else target.delivery.concurrency)
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None
        self._noted = float("-inf")
        self._circuit = CIRCUIT.labels(target.id)
        self.width = self._width()
        self.probing = False

    def use(self, target: AnyTarget | Removed) -> None:
        """Take the target as it is now. A changed endpoint or breaker is given a new chance at once."""
        old, self._target = self._target, target
        if isinstance(target, Removed):
            self._breaker = None
        else:
            self._concurrency.resize(target.delivery.concurrency)
            if self._breaker is None or _moved(old, target):
                self._breaker = _breaker(target)
        self._heed()

    def open(self) -> None:
        """Begin to follow the target's status."""
        self._statuses.listen(self._target.id, self._hear)
        self._hear(self._statuses.of(self._target.id))

    def close(self) -> None:
        self._statuses.forget(self._target.id)
        if self._timer:
            self._timer.cancel()
        CIRCUIT.remove(self._target.id)

    def delivered(self, now: float, seconds: float, under_way: int) -> None:
        """An attempt succeeded, at ``now`` (monotonic). A hot path."""
        breaker, concurrency = self._breaker, self._concurrency
        limit = concurrency.limit
        concurrency.succeeded(now, seconds, under_way)
        turned: dict[str, object] = {}
        if breaker is not None:
            was = breaker.state
            breaker.succeeded(time.time())
            if breaker.state is not was:
                turned = self._turned(was, time.time())
        if limit != concurrency.limit:
            self._tell()
        if turned or now - self._noted > SUCCESS_SECONDS:
            self._noted = now
            self._statuses.note(self._target.id, last_success=time.time(), **turned)

    def failed(self, failure: Failed | Refused) -> None:
        """An attempt failed. What is an answer is a sign of life: 4xx and 429 do not trip the breaker."""
        now = time.time()
        notes: dict[str, object] = {"last_error": failure.detail[:200], "last_error_at": now}
        limit = self._concurrency.limit
        if isinstance(failure, Failed):
            self._concurrency.failed(time.monotonic())
        if self._breaker is not None:
            was = self._breaker.state
            if isinstance(failure, Failed) and failure.status != TOO_MANY:
                self._breaker.failed(now)
            else:
                self._breaker.succeeded(now)
            notes |= self._turned(was, now)
        if limit != self._concurrency.limit:
            self._tell()
        self._statuses.note(self._target.id, **notes)

    def checked(self, failure: Failed | None) -> None:
        """A health check was good, or failed. A good one closes no open breaker, for it was no delivery, but has one tried at
        once."""
        now = time.time()
        notes: dict[str, object] = {"healthy": failure is None, "checked_at": now}
        if failure is not None:
            notes |= {"last_error": failure.detail[:200], "last_error_at": now}
        breaker = self._breaker
        if breaker is not None:
            was = breaker.state
            if failure is not None:
                breaker.failed(now)
            elif was is State.OPEN:
                breaker.probe()
            elif was is State.CLOSED:
                breaker.succeeded(now)
            notes |= self._turned(was, now)
        self._statuses.note(self._target.id, **notes)

    async def disable(self, failure: Gone) -> None:
        """The target is gone for good: nothing is sent until somebody enables it."""
        self._gone = True
        self._tell()
        log.error("the target is gone (410): nothing more is sent until it is enabled", target=self._target.id)
        changes = {"gone": True, "last_error": failure.detail[:200], "last_error_at": time.time()}
        try:
            await self._statuses.change(self._target.id, lambda old: msgspec.structs.replace(old, **changes))
        except (Unavailable, Rejected, BrokerError):
            self._statuses.note(self._target.id, **changes)

    async def probe(self) -> bool:
        """Whether this replica is the one to try the target, now that its breaker is half open."""
        target, breaker = self._target, self._breaker
        if isinstance(target, Removed) or breaker is None:
            return True
        now = time.time()
        lease = now + target.delivery.timeout + LEASE_MARGIN_SECONDS

        def take(old: Status) -> Status | None:
            taken = old.probe_until > now and old.probe_by != self._statuses.instance
            return None if taken else msgspec.structs.replace(old, probe_until=lease, probe_by=self._statuses.instance)

        try:
            taken = await self._statuses.change(target.id, take)
        except (Unavailable, Rejected, BrokerError) as error:
            log.debug("no lease, the target is tried all the same", target=target.id, detail=error.detail)
            return True
        if not taken:
            breaker.adopt(max(self._statuses.of(target.id).probe_until, now + 1.0), 0.0, now)
            self._heed()
        return taken

    def _turned(self, was: State, now: float) -> dict[str, object]:
        """Act on a breaker that is in another state than it was; what the other replicas are to know of that."""
        breaker = self._breaker
        if breaker is None or breaker.state is was:
            return {}
        self._heed()
        if breaker.state is State.HALF_OPEN:
            return {}
        told: dict[str, object] = {"open_until": breaker.open_until, "probe_until": 0.0}
        return told | {"closed_at": now} if breaker.state is State.CLOSED else told

    def _tell(self) -> None:
        self.width = self._width()
        self.probing = self._breaker is not None and self._breaker.state is State.HALF_OPEN
        self._changed()

    def _width(self) -> int:
        target, breaker = self._target, self._breaker
        if isinstance(target, Removed):
            return REMOVAL_CONCURRENCY
        if self.silent or (breaker and breaker.state is State.OPEN):
            return 0
        return 1 if breaker and breaker.state is State.HALF_OPEN else self._concurrency.limit

    @property
    def silent(self) -> bool:
        """Whether the target is to hear nothing, not even whether it is well."""
        return not isinstance(self._target, Removed) and (self._target.paused or self._gone)

    def _hear(self, status: Status) -> None:
        if self._gone != status.gone:
            self._gone = status.gone
            if not status.gone and self._breaker is not None:
                self._breaker.close()
        if self._breaker is not None and self._breaker.state is not State.HALF_OPEN:
            self._breaker.adopt(status.open_until, status.closed_at, time.time())
        self._heed()

    def _heed(self) -> None:
        """Act on the breaker's state."""
        breaker = self._breaker
        self._circuit.set(breaker.state if breaker else State.CLOSED)
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if breaker is not None and breaker.state is State.OPEN:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, breaker.open_until - time.time()), self._due)
        self._tell()

    def _due(self) -> None:
        if self._breaker is not None and self._breaker.due(time.time()):
            self._breaker.probe()
        self._heed()


def _breaker(target: AnyTarget | Removed) -> Breaker | None:
    if isinstance(target, Removed) or not target.delivery.breaker.enabled:
        return None
    return Breaker(target.delivery.breaker)


def _moved(old: AnyTarget | Removed, new: AnyTarget) -> bool:
    """Whether what was found out about the old target says nothing about the new one."""
    if isinstance(old, Removed):
        return True
    same = {"rules": None, "name": None, "paused": False, "enabled": True}
    return msgspec.structs.replace(old, **same) != msgspec.structs.replace(new, **same)
