"""Access tokens by client credentials (RFC 6749 4.4), kept as long as they hold and asked for once by all who need one."""

import asyncio
import ssl
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote_plus, urlencode

import msgspec

from services.forward.answers import SHOWN_BYTES, retry_after
from services.forward.connection import BODY_BYTES, Answer, Endpoint, Pool
from services.forward.guard import Guard
from services.forward.requests import request_head
from services.forward.verdict import Failed
from tas_mcp.targets import OAuth2

EARLY_SECONDS = 30.0
"""How long before its end a token is exchanged; a tenth of its life where that is shorter."""
FETCH_SECONDS = 10.0
KEPT_SECONDS = 3600.0
"""How long a token is used that does not say how long it holds. A 401 ends it earlier."""


class Tokens:
    """The tokens of one target."""

    def __init__(self, given: OAuth2, pool: Pool) -> None:
        self._request = token_request(given)
        self._url = given.token_url
        self._pool = pool
        self._token = ""
        self._until = float("-inf")
        self._fetching: asyncio.Task[str] | None = None

    async def get(self) -> str:
        """A token that holds. A caller who is cancelled takes nothing from the others.

        Raises:
            Failed: there is none to be had now.
            Refused: the guard does not let the request through.
        """
        if time.monotonic() < self._until:
            return self._token
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        return await asyncio.shield(self._fetching)

    def drop(self, token: str) -> None:
        """The target did not take it, whatever was said of its life."""
        if token == self._token:
            self._until = float("-inf")

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def _fetch(self) -> str:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                answer = await self._pool.request(self._request)
        except TimeoutError:
            raise Failed(0, f"no token from {self._url} within {FETCH_SECONDS:g} s") from None
        except Failed as error:
            raise Failed(0, f"no token from {self._url}: {error.detail}") from None
        self._token, seconds = self._read(answer)
        self._until = time.monotonic() + seconds - min(EARLY_SECONDS, seconds / 10)
        return self._token

    def _fetched(self, task: asyncio.Task[str]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # seen: those who waited for it may all have left

    def _read(self, answer: Answer) -> tuple[str, float]:
        """The token and its life in seconds. What cannot be read is not shown: there may be a token in it."""
        if answer.status != 200:
            shown = answer.body[:SHOWN_BYTES].decode(errors="replace").strip()
            detail = f"no token from {self._url}: it answered {answer.status}" + (f": {shown}" if shown else "")
            raise Failed(0, detail, retry_after(answer.retry_after))
        try:
            found: dict[str, Any] = msgspec.json.decode(answer.body, type=dict[str, Any])
            token, kind, seconds = (
                found["access_token"],
                found.get("token_type", "Bearer"),
                float(found.get("expires_in", KEPT_SECONDS)),
            )
        except (msgspec.MsgspecError, ValueError, TypeError, KeyError, OverflowError):
            raise Failed(0, f"no token from {self._url}: its answer is no token (RFC 6749 5.1)") from None
        if not isinstance(token, str) or not token or not all("!" <= each <= "~" for each in token):
            raise Failed(0, f"no token from {self._url}: its access_token cannot be sent in a header")
        if str(kind).lower() != "bearer":
            raise Failed(0, f"no token from {self._url}: its tokens are of the type {str(kind)[:40]!r}, not Bearer")
        return token, max(0.0, seconds)


def token_request(given: OAuth2) -> bytes:
    """The whole request (RFC 6749 4.4.2; the client's credentials by 2.3.1)."""
    form = {"grant_type": "client_credentials", "scope": given.scope, "audience": given.audience}
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    if given.token_endpoint_auth_method == "client_secret_post":
        form |= {"client_id": given.client_id, "client_secret": given.client_secret}
    else:
        credentials = f"{quote_plus(given.client_id)}:{quote_plus(given.client_secret)}"
        headers["Authorization"] = "Basic " + b64encode(credentials.encode()).decode()
    body = urlencode({name: value for name, value in form.items() if value}).encode()
    head = request_head("POST", given.token_url, {**headers, "Content-Length": str(len(body))})
    return b"%s\r\n%s" % (head, body)


@asynccontextmanager
async def open_tokens(given: OAuth2, ca: str, guard: Guard, connect_seconds: float) -> AsyncIterator[Tokens]:
    """Leaving gives up what is under way. ``ca`` (PEM) is trusted besides the system's authorities."""
    tls = None
    if given.token_url.startswith("https:"):
        tls = ssl.create_default_context()
        if ca:
            tls.load_verify_locations(cadata=ca)
    async with Pool(Endpoint.of(given.token_url, tls), connect_seconds, guard, BODY_BYTES).running() as pool:
        tokens = Tokens(given, pool)
        try:
            yield tokens
        finally:
            await tokens.close()
