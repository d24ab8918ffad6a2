"""The reference for deliveries over HTTP: as ``services.forward.targets.http.Http``, by aiohttp's client."""

import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from services.forward.answers import check_answer
from services.forward.connection import BODY_BYTES, KEPT_BYTES, Answer
from services.forward.formats import FORMATS
from services.forward.targets.http import AGENT
from services.forward.verdict import Failed
from tas_mcp.messages import Event, webhook_id
from tas_mcp.targets import HttpTarget


class Reference:
    """Sends to one endpoint."""

    def __init__(self, target: HttpTarget, session: aiohttp.ClientSession) -> None:
        self._target = target
        self._session = session

    async def send(self, event: Event, trace: str = "") -> int:
        body = FORMATS[self._target.delivery.format](event)
        headers = {"User-Agent": AGENT, "Content-Type": "application/json", "webhook-id": webhook_id(event)}
        try:
            async with self._session.post(
                self._target.endpoint, data=io.BytesIO(body), headers=headers, allow_redirects=False
            ) as answer:
                kept = await beginning(answer)
                found = Answer(answer.status, answer.headers.get("Retry-After", ""), kept)
        except (aiohttp.ClientError, OSError) as error:
            raise Failed(0, str(error)) from None
        check_answer(found)
        return found.status


async def beginning(answer: aiohttp.ClientResponse) -> bytes:
    """The first bytes of a body; one that is too long costs its connection."""
    kept, size = b"", 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        kept += chunk[: KEPT_BYTES - len(kept)]
        if size > BODY_BYTES:
            answer.close()
            break
    return kept


@asynccontextmanager
async def open_reference(target: HttpTarget, tls: ssl.SSLContext | None = None) -> AsyncIterator[Reference]:
    connector = aiohttp.TCPConnector(ssl=tls or True, limit=0)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    ) as session:
        yield Reference(target, session)
