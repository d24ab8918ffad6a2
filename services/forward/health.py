"""Asks a target at its interval whether it is well, and tells its gate."""

import asyncio
import random

from services.forward.gate import Gate
from services.forward.redaction import redacted
from services.forward.targets import CheckedSender, Sender
from services.forward.verdict import Failed
from tas_mcp.targets import AnyTarget, Removed

JITTER = 0.2


class Health:
    """Of one target. One without a ``health_check`` costs nothing."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._task: asyncio.Task[None] | None = None

    def use(self, target: AnyTarget | Removed, sender: Sender | None) -> None:
        """Take the target as it is now."""
        self.close()
        if not isinstance(target, Removed) and target.delivery.health_check is not None and isinstance(sender, CheckedSender):
            self._task = asyncio.create_task(self._check(sender, target, target.delivery.health_check.interval))

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _check(self, sender: CheckedSender, target: AnyTarget, interval: float) -> None:
        await asyncio.sleep(interval * random.random())  # after a start not all at once
        while True:
            if not self._gate.silent:
                self._gate.checked(await _asked(sender, target))
            await asyncio.sleep(interval * random.uniform(1 - JITTER, 1 + JITTER))


async def _asked(sender: CheckedSender, target: AnyTarget) -> Failed | None:
    """What is wrong with it."""
    try:
        async with asyncio.timeout(target.delivery.timeout):
            await sender.check()
    except Failed as failed:
        return redacted(failed, target)
    except TimeoutError:
        return Failed(0, f"no answer to the health check within {target.delivery.timeout:g} s")
    return None
