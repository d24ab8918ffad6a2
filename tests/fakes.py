"""A broker in memory that does what ``tests/contracts/broker.py`` asks of the real one. Time is that of the event loop."""

import asyncio
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

from tas_mcp.broker import Connection, Message
from tas_mcp.errors import Rejected, Unavailable

HEADER_ROOM = 512
Callback = Callable[[Message], None]
Hook = Callable[[], None]
NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


class MemoryBroker:
    """The part of ``Connection`` that ``Publisher`` and ``Puller`` use, and the broker behind it."""

    def __init__(self) -> None:
        self.connected, self.trouble, self.max_payload = True, "", 1_048_576
        self._tokens = itertools.count()
        self._subscriptions: dict[str, Callback] = {}
        self._hooks: list[tuple[Hook | None, Hook | None]] = []
        self._streams: dict[str, Stream] = {}

    @property
    def connection(self) -> Connection:
        """Itself, as those who want a ``Connection`` see it."""
        return cast(Connection, self)

    async def away(self) -> None:
        """What a kill -9 of the server does: pulls are forgotten, streams and consumers stay."""
        self.connected, self.trouble = False, "killed"
        for consumer in (each for stream in self._streams.values() for each in stream.consumers.values()):
            consumer.forget_pulls()
        for down in [down for _, down in self._hooks if down]:
            down()

    async def back(self) -> None:
        self.connected, self.trouble = True, ""
        for up in [up for up, _ in self._hooks if up]:
            up()

    def new_inbox(self) -> str:
        return f"_INBOX.memory.{next(self._tokens)}"

    @contextmanager
    def watched(self, *, up: Hook | None = None, down: Hook | None = None) -> Iterator[None]:
        self._hooks.append((up, down))
        if up and self.connected:
            up()
        try:
            yield
        finally:
            self._hooks.remove((up, down))

    @asynccontextmanager
    async def subscribed(self, subject: str, callback: Callback) -> AsyncIterator[None]:
        self._subscriptions[subject] = callback
        try:
            yield
        finally:
            del self._subscriptions[subject]

    def send(self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        if not self.connected:
            raise Unavailable(f"the broker is away: {self.trouble}")
        if len(payload) + HEADER_ROOM > self.max_payload:
            raise Rejected("TOO_LARGE", f"{len(payload)} bytes")
        asyncio.get_running_loop().call_soon(self._receive, subject, payload, reply, headers or {})

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 5.0) -> Message:
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        inbox = self.new_inbox()
        async with self.subscribed(inbox, answer.set_result), asyncio.timeout(timeout):
            self.send(subject, payload, inbox)
            return await answer

    def answer(self, inbox: str, data: bytes, *, reply: str = "", head: bytes = b"", subject: str = "") -> None:
        if (callback := self.listener(inbox)) and self.connected:
            callback(Message(subject or inbox, reply, data, head))

    def listener(self, inbox: str) -> Callback | None:
        return self._subscriptions.get(inbox) or self._subscriptions.get(inbox.rpartition(".")[0] + ".*")

    def _receive(self, subject: str, payload: bytes, reply: str, headers: dict[str, str]) -> None:
        if not self.connected:
            return
        words = subject.split(".")
        if subject.startswith("$JS.ACK."):
            if consumer := self._streams[words[2]].consumers.get(words[3]):
                consumer.ended(int(words[5]), payload)
        elif subject.startswith("$JS.API.CONSUMER.MSG.NEXT."):
            if consumer := self._streams[words[5]].consumers.get(words[6]):
                consumer.pull(reply, json.loads(payload))
            else:
                self.answer(reply, b"", head=NO_RESPONDERS)
        elif subject.startswith("$JS.API."):
            self.answer(reply, json.dumps(self._manage(words[2:], json.loads(payload or b"{}"))).encode())
        else:
            stream = self._streams.get(words[0])
            answer = json.dumps(stream.store(subject, payload, headers)).encode() if stream else b""
            self.answer(reply, answer, head=b"" if stream else NO_RESPONDERS)

    def _manage(self, verb: list[str], body: dict[str, Any]) -> dict[str, Any]:
        match verb:
            case ["STREAM", "CREATE", name]:
                self._streams[name] = Stream(name, body)
            case ["STREAM", "INFO", name] if name in self._streams:
                return {"state": {"messages": len(self._streams[name].messages)}}
            case ["CONSUMER", "DURABLE", "CREATE", name, durable] if name in self._streams:
                stream = self._streams[name]
                stream.consumers.setdefault(durable, Consumer(self, stream, durable, body["config"])).serve()
            case ["CONSUMER", "DELETE", name, durable] if durable in self._streams[name].consumers:
                self._streams[name].consumers.pop(durable).delete()
            case ["CONSUMER", "INFO", name, durable] if durable in self._streams[name].consumers:
                return self._streams[name].consumers[durable].info()
            case [kind, *_]:
                return _refused(404, 10014 if kind == "CONSUMER" else 10059, f"{kind.lower()} not found")
        return {}


class Stream:
    """Takes the subjects below its name."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.name, self.consumers = name, dict[str, Consumer]()
        self.messages: list[tuple[str, bytes, bytes]] = []
        self._most, self._ids = config.get("max_msgs", -1), dict[str, int]()

    def store(self, subject: str, payload: bytes, headers: dict[str, str]) -> dict[str, Any]:
        msg_id = headers.get("Nats-Msg-Id", "")
        if msg_id in self._ids:
            return {"stream": self.name, "seq": self._ids[msg_id], "duplicate": True}
        if 0 <= self._most <= len(self.messages):
            return _refused(503, 10077, "maximum messages exceeded")
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        self.messages.append((subject, payload, f"NATS/1.0\r\n{lines}\r\n".encode() if lines else b""))
        if msg_id:
            self._ids[msg_id] = len(self.messages)
        for consumer in self.consumers.values():
            consumer.serve()
        return {"stream": self.name, "seq": len(self.messages)}


class Consumer:
    """A durable pull consumer with explicit acks. ``_counts``: how often each unacked message was handed out."""

    def __init__(self, broker: MemoryBroker, stream: Stream, name: str, config: dict[str, Any]) -> None:
        self._broker, self._stream, self._name = broker, stream, name
        self._config = {"ack_wait": 30_000_000_000, **config}
        self._next = 1
        self._counts: dict[int, int] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._again, self._pulls = deque[int](), deque[Pull]()

    def pull(self, inbox: str, request: dict[str, Any]) -> None:
        def tell(head: bytes) -> None:
            self._broker.answer(inbox, b"", head=head)

        beat, expires = request.get("idle_heartbeat", 0) / 1e9, request["expires"] / 1e9
        if beat * 2 > expires:
            return tell(b"NATS/1.0 400 Bad Request - heartbeat value too large\r\n\r\n")
        self._pulls.append(Pull(tell, inbox, request["batch"], expires, beat))
        return self.serve()

    def serve(self) -> None:
        while self._pulls and (self._again or self._next <= len(self._stream.messages)):
            pull = self._pulls[0]
            if not pull.left or not self._broker.listener(pull.inbox):
                self._pulls.popleft().end()
                continue
            seq = self._again.popleft() if self._again else self._next
            self._next = max(self._next, seq + 1)
            self._counts[seq] = self._counts.get(seq, 0) + 1
            self._watch(seq)
            subject, data, head = self._stream.messages[seq - 1]
            reply = f"$JS.ACK.{self._stream.name}.{self._name}.{self._counts[seq]}.{seq}.1.1.0"
            pull.left -= 1
            if not pull.left:
                pull.end()
            self._broker.answer(pull.inbox, data, reply=reply, head=head, subject=subject)

    def ended(self, seq: int, answer: bytes) -> None:
        if seq not in self._timers:
            return
        if answer == b"+WPI":
            self._watch(seq)
            return
        self._timers.pop(seq).cancel()
        if answer == b"+ACK":
            del self._counts[seq]
        else:
            self._again.append(seq)
            self.serve()

    def _watch(self, seq: int) -> None:
        """Hand it out again unless it is acked within ack_wait."""
        if seq in self._timers:
            self._timers[seq].cancel()
        self._timers[seq] = asyncio.get_running_loop().call_later(self._config["ack_wait"] / 1e9, self.ended, seq, b"-NAK")

    def forget_pulls(self) -> None:
        while self._pulls:
            self._pulls.popleft().end()

    def delete(self) -> None:
        for pull in [pull for pull in self._pulls if pull.left]:
            self._broker.answer(pull.inbox, b"", head=b"NATS/1.0 409 Consumer Deleted\r\n\r\n")
        self.forget_pulls()
        for timer in self._timers.values():
            timer.cancel()

    def info(self) -> dict[str, Any]:
        unserved = len(self._stream.messages) - self._next + 1
        waiting = sum(bool(pull.left and self._broker.listener(pull.inbox)) for pull in self._pulls)
        return {"config": self._config, "num_ack_pending": len(self._counts), "num_pending": unserved, "num_waiting": waiting}


class Pull:
    """One request for messages."""

    def __init__(self, answer: Callable[[bytes], None], inbox: str, batch: int, expires: float, beat: float) -> None:
        self.inbox, self.left = inbox, batch
        self._answer, self._beat = answer, beat
        loop = asyncio.get_running_loop()
        self._timers = [loop.call_later(expires, self._expire), loop.call_later(beat or expires + 1, self._pulse)]

    def end(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _expire(self) -> None:
        self.end()
        head = b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: %d\r\nNats-Pending-Bytes: 0\r\n\r\n" % self.left
        self.left = 0
        self._answer(head)

    def _pulse(self) -> None:
        self._timers[1] = asyncio.get_running_loop().call_later(self._beat, self._pulse)
        self._answer(b"NATS/1.0 100 Idle Heartbeat\r\n\r\n")


def _refused(code: int, err_code: int, description: str) -> dict[str, Any]:
    return {"error": {"code": code, "err_code": err_code, "description": description}}
