"""Sends one event to a target because somebody asks to (``tas.rpc.test.<target>``), and answers what came of it.

The rule kept here: nothing follows from a trial. It takes the document as it is stored now, also of a target that is disabled or
paused, connects anew, tries once, and leaves no record.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import MsgspecError

from services.forward.guard import Guard
from services.forward.redaction import redacted
from services.forward.targets import deliver, open_sender
from services.forward.verdict import Failed, Refused
from tas_mcp import subjects, targets, telemetry
from tas_mcp.broker import Connection, JetStream, Message
from tas_mcp.documents import newest
from tas_mcp.errors import Rejected, TasError, Unavailable
from tas_mcp.messages import Event, Trial, decode_event, encode
from tas_mcp.routing import Decision, Output, TransformFailed, View
from tas_mcp.sealing import SecretKeys
from tas_mcp.targets import AnyTarget, Removed

log = telemetry.logger("trial")

AT_ONCE = 16
"""How many trials a replica makes at the same time; more wait."""


class Trials:
    """Answers while ``running``; of several replicas one does."""

    def __init__(self, connection: Connection, guard: Guard, keys: SecretKeys) -> None:
        self._connection = connection
        self._jetstream = JetStream(connection)
        self._guard = guard
        self._keys = keys
        self._room = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Trials"]:
        try:
            async with self._connection.subscribed(subjects.ALL_TRIALS, self._hear, "forward"):
                yield self
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _hear(self, message: Message) -> None:
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message) -> None:
        target_id = subjects.text(message.subject.rpartition(".")[2])
        async with self._room:
            try:
                trial = await self._try(target_id, decode_event(message.data))
            except (TasError, MsgspecError) as error:
                trial = Trial(False, 0, 0.0, str(error), False, None)
        log.info("target tried", target=target_id, delivered=trial.delivered, status=trial.status, error=trial.error)
        try:
            self._connection.send(message.reply, encode(trial))
        except Unavailable as error:
            log.warning("a trial could not be answered", target=target_id, detail=error.detail)

    async def _try(self, target_id: str, event: Event) -> Trial:
        found = await newest(self._jetstream, subjects.TARGETS_BUCKET, target_id)
        target, rules = targets.compiled(found.value, self._keys) if found and found.value is not None else (None, None)
        if target is None or rules is None or isinstance(target, Removed):
            raise Rejected("NOT_FOUND", f"there is no target {target_id!r}")
        view = View(event)
        decision = rules.decide(view)
        began = time.perf_counter()
        status, error = await self._send(target, view, decision)
        duration = round((time.perf_counter() - began) * 1e3, 3)
        return Trial(not error, status, duration, error, decision is not None, decision.id if decision is not None else None)

    async def _send(self, target: AnyTarget, view: View, decision: Decision | None) -> tuple[int, str]:
        """The status, and what went wrong (``""``: nothing)."""
        try:
            output = Output(view.event, None, None)
            if decision is not None and decision.reshape is not None:
                output = decision.reshape(view)
            async with asyncio.timeout(target.delivery.timeout), open_sender(target, self._guard) as sender:
                return await deliver(sender, output.event, output.body, output.content_type), ""
        except (Failed, Refused) as error:
            return error.status, redacted(error, target).detail
        except TransformFailed as error:
            return 0, f"the transform failed: {error}"
        except TimeoutError:
            return 0, f"no answer within {target.delivery.timeout}"
