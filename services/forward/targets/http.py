"""Target types ``http`` and ``webhook``: a POST over kept connections."""

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlsplit

from services.forward.connection import Answer, Endpoint, Pool
from services.forward.formats import FORMATS
from services.forward.guard import Guard
from services.forward.verdict import Failed, Gone, Refused
from tas_mcp import __version__
from tas_mcp.messages import Event, webhook_id
from tas_mcp.signature import Signer, secret_key
from tas_mcp.targets import HttpTarget

AGENT = f"tas-mcp/{__version__}"
CONNECT_SECONDS = 10.0
GONE = 410
RETRYABLE = frozenset((408, 425, 429))
"""Client errors that time may heal; all 5xx may too."""
SHOWN_BYTES = 200
"""How much of a refusing answer's body is kept with the attempt."""
_PATH_SAFE = "/%:@!$&'()*+,;=-._~?[]"


@asynccontextmanager
async def open_http(target: HttpTarget, guard: Guard) -> AsyncIterator["Http"]:
    """Open the connections' pool of one target."""
    url = urlsplit(target.endpoint)
    tls = ssl.create_default_context() if url.scheme == "https" else None
    endpoint = Endpoint(url.hostname or "", url.port or (443 if tls else 80), tls)
    async with Pool(endpoint, min(CONNECT_SECONDS, target.delivery.timeout), guard).running() as pool:
        yield Http(target, pool)


class Http:
    """Sends to one endpoint."""

    def __init__(self, target: HttpTarget, pool: Pool) -> None:
        config = target.delivery
        self._pool = pool
        self._body = FORMATS[config.format]
        self._endpoint = target.endpoint
        self._headers = {"User-Agent": AGENT, "Content-Type": "application/json", **config.headers}
        self._head = request_head(self._endpoint, self._headers)
        self._signer = Signer(secret_key(config.signing_secret)) if config.signing_secret else None

    async def send(self, event: Event) -> int:
        return await self._post(event, self._head, self._body(event))

    async def send_text(self, event: Event, text: str, content_type: str | None) -> int:
        head = self._head
        if content_type is not None:
            others = {name: value for name, value in self._headers.items() if name.lower() != "content-type"}
            head = request_head(self._endpoint, {**others, "Content-Type": content_type})
        return await self._post(event, head, text.encode())

    async def _post(self, event: Event, head: bytes, body: bytes) -> int:
        sent_at = int(time.time())
        wid = webhook_id(event)
        signature = f"webhook-signature: {self._signer.sign(wid, sent_at, body)}\r\n" if self._signer else ""
        own = f"webhook-id: {wid}\r\nwebhook-timestamp: {sent_at}\r\n{signature}Content-Length: {len(body)}\r\n\r\n"
        answer = await self._pool.request(b"%s%s%s" % (head, own.encode(), body))
        check_answer(answer)
        return answer.status


def request_head(endpoint: str, headers: dict[str, str]) -> bytes:
    """The part of a request's head that is the same for every delivery. Names and values were checked when the target was
    saved."""
    url = urlsplit(endpoint)
    path = quote(url.path or "/", safe=_PATH_SAFE) + (f"?{quote(url.query, safe=_PATH_SAFE)}" if url.query else "")
    host = url.netloc.rpartition("@")[2]
    try:
        host = host.encode("idna").decode()
    except UnicodeError:  # a name that cannot be one: connecting will say so
        host = quote(host, safe=_PATH_SAFE)
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n").encode()


def check_answer(answer: Answer) -> None:
    """What an answer means: 2xx alone is success, redirects are not followed.

    Raises:
        Failed: 408, 425, 429, 5xx.
        Gone: 410.
        Refused: all else.
    """
    status = answer.status
    if 200 <= status < 300:
        return
    shown = answer.body[:SHOWN_BYTES].decode(errors="replace").strip()
    detail = f"the target answered {status}" + (f": {shown}" if shown else "")
    if status in RETRYABLE or status >= 500:
        raise Failed(status, detail, retry_after(answer.retry_after))
    if status == GONE:
        raise Gone(status, detail)
    raise Refused(status, detail)


def retry_after(value: str) -> float:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110 10.2.3: seconds or a date); 0 for none or nonsense."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
