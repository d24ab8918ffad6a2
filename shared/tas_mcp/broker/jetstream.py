"""Requests to JetStream's management API, as plain JSON: what the system needs of it and nothing more.

The configuration of a stream or consumer is a dict in the server's own words (nats-server's ``StreamConfig``), so that every
server feature is at hand without waiting for a client library.
"""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from tas_mcp.broker.connection import Connection
from tas_mcp.broker.wire import Message
from tas_mcp.errors import TasError, Unavailable

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
STALE_REVISION = 10071
_RETRYABLE = frozenset((10002, 10008, 10023, 10077, 10167))
_DIRECT_BATCH = 1000
_PAGE_BYTES = 16 * 1024 * 1024


class BrokerError(TasError):
    """JetStream refused a request; ``err_code`` is the server's stable number."""

    def __init__(self, detail: str, err_code: int) -> None:
        super().__init__(detail)
        self.err_code = err_code


class JetStream:
    """The management API over one connection.

    Every method raises ``Unavailable`` when the broker is away or answers that it cannot now, ``BrokerError`` for all else.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def call(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one request (``STREAM.INFO.EVENTS`` ...) and return its decoded answer."""
        payload = msgspec.json.encode(body) if body is not None else b""
        answer = await self._connection.request("$JS.API." + verb, payload)
        result: dict[str, Any] = msgspec.json.decode(answer.data)
        error = result.get("error")
        if error is None:
            return result
        detail = f"{verb}: {error.get('description', 'refused')} ({error.get('err_code')})"
        if error.get("err_code") in _RETRYABLE or error.get("code") == 503:
            raise Unavailable(detail)
        raise BrokerError(detail, error.get("err_code", 0))

    async def stream_info(self, stream: str) -> dict[str, Any]:
        return await self.call(f"STREAM.INFO.{stream}")

    async def subjects(self, stream: str, subjects_filter: str) -> dict[str, int]:
        """Each subject of the stream below the filter with its number of messages (any number of subjects, read by pages)."""
        found: dict[str, int] = {}
        while True:
            info = await self.call(f"STREAM.INFO.{stream}", {"subjects_filter": subjects_filter, "offset": len(found)})
            page = info["state"].get("subjects") or {}
            found.update(page)
            if not page or len(found) >= info.get("total", 0):
                return found

    async def ensure_consumer(self, stream: str, config: dict[str, Any]) -> dict[str, Any]:
        """Make the durable consumer, or update one of that name."""
        verb = f"CONSUMER.DURABLE.CREATE.{stream}.{config['durable_name']}"
        return await self.call(verb, {"stream_name": stream, "config": config})

    async def consumer_info(self, stream: str, consumer: str) -> dict[str, Any]:
        return await self.call(f"CONSUMER.INFO.{stream}.{consumer}")

    async def consumers(self, stream: str) -> list[dict[str, Any]]:
        """The info of every consumer of the stream."""
        found: list[dict[str, Any]] = []
        while True:
            page = await self.call(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
            found += page.get("consumers") or []
            if not page.get("consumers") or len(found) >= page.get("total", 0):
                return found

    async def delete_consumer(self, stream: str, consumer: str) -> None:
        """Delete it; a missing one is no error."""
        try:
            await self.call(f"CONSUMER.DELETE.{stream}.{consumer}")
        except BrokerError as error:
            if error.err_code not in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
                raise

    async def purge(self, stream: str, *, subject: str = "", before_seq: int = 0) -> int:
        """Delete messages of a subject filter and/or below a sequence; the number deleted."""
        body: dict[str, Any] = {"filter": subject} if subject else {}
        if before_seq:
            body["seq"] = before_seq
        return int((await self.call(f"STREAM.PURGE.{stream}", body))["purged"])

    async def message(self, stream: str, seq: int) -> Message | None:
        """One stored message, or None."""
        try:
            found = (await self.call(f"STREAM.MSG.GET.{stream}", {"seq": seq}))["message"]
        except BrokerError as error:
            if error.err_code == MESSAGE_NOT_FOUND:
                return None
            raise
        head, data = (base64.b64decode(found.get(part) or "") for part in ("hdrs", "data"))
        return Message(found["subject"], "", data, head)

    async def delete_message(self, stream: str, seq: int) -> bool:
        """Whether there was one to delete."""
        try:
            await self.call(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})
        except BrokerError as error:
            if error.err_code in (MESSAGE_NOT_FOUND, 10057, 10043):
                return False
            raise
        return True

    async def last_of(self, stream: str, subjects: Sequence[str], up_to: int = 0) -> list[Message]:
        """The last message of each subject (no wildcards), of a stream with ``allow_direct``; missing ones are left out. With
        ``up_to`` the last that is no younger than that sequence."""
        bound = {"up_to_seq": up_to} if up_to else {}
        found: list[Message] = []
        for start in range(0, len(subjects), _DIRECT_BATCH):
            part = list(subjects[start : start + _DIRECT_BATCH])
            found += await self.direct(stream, {"multi_last": part, "batch": len(part), **bound})
        return found

    async def count(self, stream: str, subject: str, start: int = 1) -> int:
        """How many messages from a sequence on a subject filter matches, of a stream with ``allow_direct``, without listing
        them."""
        first = await self.direct(stream, {"seq": start, "next_by_subj": subject, "batch": 1})
        if not first:
            return 0
        return 1 + int(first[0].headers.get("Nats-Num-Pending", 0))

    async def page(self, stream: str, subject: str, start: int, limit: int) -> tuple[list[Message], int | None]:
        """At most ``limit`` messages of a subject filter from sequence ``start`` on, fewer where they are large, of a stream with
        ``allow_direct``, and where the next page starts."""
        request = {"seq": start, "next_by_subj": subject, "batch": limit, "max_bytes": _PAGE_BYTES}
        found = await self.direct(stream, request)
        left = int(found[-1].headers.get("Nats-Num-Pending", 0)) if found else 0
        return found, found[-1].sequence + 1 if left else None

    async def direct(self, stream: str, request: dict[str, Any], timeout: float = 10.0) -> list[Message]:
        """A batched direct get: the messages that answer ``request`` (its ``batch`` is the most there can be).

        Raises:
            Unavailable: the link was lost, or the answer did not come whole within ``timeout`` seconds.
        """
        found: list[Message] = []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(message: Message) -> None:
            if done.done():
                return
            if not message.status:
                found.append(message)
            elif message.status in ("204", "404"):  # the end of the batch; nothing there
                done.set_result(None)
            else:
                done.set_exception(Unavailable(f"direct get from {stream}: status {message.status}"))

        def lost() -> None:
            if not done.done():
                done.set_exception(Unavailable(f"direct get from {stream}: the connection to the broker was lost"))

        inbox = self._connection.new_inbox()
        async with self._connection.subscribed(inbox, take):
            self._connection.send("$JS.API.DIRECT.GET." + stream, msgspec.json.encode(request), inbox)
            try:
                with self._connection.watched(down=lost):
                    async with asyncio.timeout(timeout):
                        await done
            except TimeoutError:
                raise Unavailable(f"direct get from {stream}: no whole answer within {timeout:g} s") from None
        return found
