"""The fast path of the NATS protocol: how messages are written to and read from a connection that nats-py made.

nats-py connects, authenticates, upgrades to TLS, and answers the server's pings. Per message it costs 10 us to publish and 10 us
to receive (subject checks, header dicts, a queue and a task for each subscription); here it is 2 us each. For that two private
names of its ``Client`` are used, and nothing else: ``_ps`` (whose ``parse`` gets the bytes that were read) and ``_transport``.
``tests/shared/broker/test_wire.py`` fails when a new version changes them.
"""

from collections.abc import Callable, Mapping

from nats.aio.client import Client
from nats.protocol.parser import Parser

from tas_mcp import telemetry

log = telemetry.logger("wire")

FIRST_SID = 1_000_000
"""Our subscription ids; nats-py counts its own from 1."""
_H, _M = b"HM"
_SEQUENCE = b"\r\nNats-Sequence:"


class Message:
    """A message as it came from the broker; its headers are read when somebody asks."""

    __slots__ = ("_head", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, head: bytes = b"") -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self._head = head

    @property
    def headers(self) -> dict[str, str]:
        """The headers. An inline status is not among them."""
        lines = self._head.decode(errors="replace").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return {name.strip(): value.strip() for name, _, value in pairs}

    def header(self, name: str) -> str:
        """The value of one header, or ``""``; one that is not there costs next to nothing."""
        return self.headers.get(name, "") if name.encode() in self._head else ""

    @property
    def sequence(self) -> int:
        """Its number in the stream that a direct get took it from. The broker writes it behind what the message came with."""
        start = self._head.rindex(_SEQUENCE) + len(_SEQUENCE)
        return int(self._head[start : self._head.index(b"\r\n", start)])

    @property
    def status(self) -> str:
        """The status code of a message that carries no payload but news (``408`` ...), or ``""``."""
        return self._head[9:12].decode() if self._head[8:9] == b" " else ""

    @property
    def description(self) -> str:
        """What the server says beside the status."""
        return self._head[13:].partition(b"\r\n")[0].decode(errors="replace").strip() if self.status else ""


Callback = Callable[[Message], None]


def encode(subject: str, payload: bytes, reply: str, headers: Mapping[str, str] | None) -> bytes:
    """A publish, as it goes over the wire. Line ends in header values become blanks."""
    if not headers:
        return b"PUB %s %d\r\n%s\r\n" % (f"{subject} {reply}".encode() if reply else subject.encode(), len(payload), payload)
    lines = "NATS/1.0"
    for name, value in headers.items():
        lines += f"\r\n{name}: {value if value.isprintable() else ' '.join(value.splitlines())}"
    head = f"{lines}\r\n\r\n".encode()
    address = f"{subject} {reply}" if reply else subject
    return b"HPUB %s %d %d\r\n%s%s\r\n" % (address.encode(), len(head), len(head) + len(payload), head, payload)


class Wire(Parser):
    """Stands in for the parser of a connected client."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._rest = b""
        self._routes: dict[bytes, Callback] = {}
        self._transport = client._transport
        client._ps = self

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket; what it does not take at once is kept: see ``unsent``. On one that is closed they are lost,
        as on one that is about to be; whoever watches the link is told of that soon."""
        if not self._transport._io_writer.is_closing():  # type: ignore[union-attr]
            self._transport.write(data)  # type: ignore[union-attr]

    @property
    def unsent(self) -> int:
        """How many bytes the socket has not taken yet."""
        writer = self._transport._io_writer  # type: ignore[union-attr]
        size: int = writer.transport.get_write_buffer_size()
        return size

    def route(self, sid: int, callback: Callback) -> None:
        """Call ``callback``, which must not wait, for the messages of a subscription."""
        self._routes[b"%d" % sid] = callback

    def unroute(self, sid: int) -> None:
        self._routes.pop(b"%d" % sid, None)

    async def parse(self, data: bytes = b"") -> None:
        """Take bytes as they were read. Messages are delivered here, all else is left to nats-py, a line at a time."""
        data = self._rest + data if self._rest else data
        at, size = 0, len(data)
        while at < size:
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            kind = data[at]
            if kind not in (_H, _M):
                at, line = end + 2, data[at : end + 2]
                await super().parse(line)
                continue
            words = data[at:end].split(b" ")
            start = end + 2
            stop = start + int(words[-1])
            if stop + 2 > size:
                break
            at = stop + 2
            callback = self._routes.get(words[2])
            if callback is not None:
                body = start + int(words[-2]) if kind == _H else start
                reply = words[3].decode() if len(words) == (6 if kind == _H else 5) else ""
                _deliver(callback, Message(words[1].decode(), reply, data[body:stop], data[start:body]))
        self._rest = data[at:]


def _deliver(callback: Callback, message: Message) -> None:
    """An error of ours must not end the reading."""
    try:
        callback(message)
    except Exception:
        log.exception("a message was not handled", subject=message.subject)
