"""The management API of a running gateway, as the commands speak to it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import aiohttp
import msgspec
import typer
from rich.console import Console

from tas_mcp.errors import TasError, Unavailable

SECONDS = 60.0
FAILED = 2
"""How a command ends where the gateway did not do it."""

T = TypeVar("T")

errors = Console(highlight=False, soft_wrap=True, stderr=True)

Url = Annotated[str, typer.Option("--url", envvar="TAS_URL", help="Where the gateway's management API is.")]
Key = Annotated[str, typer.Option("--key", envvar="TAS_API_KEY", help="An API key.", show_default=False)]
Authority = Annotated[str, typer.Option("--ca-file", envvar="TAS_CA_FILE", help="The authority of its certificate, PEM.")]
URL = "http://127.0.0.1:8080"


class Api:
    """Paths are below the gateway's URL."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """The decoded answer.

        Raises:
            Unavailable: there was none, or it was no success; the text is the gateway's own.
        """
        try:
            async with self._session.request(method, path.lstrip("/"), json=body, params=query) as answer:
                text = await answer.read()
                if answer.ok:
                    return msgspec.json.decode(text) if text else None
                raise Unavailable(f"{method} {path}: {answer.status} {_detail(text)}")
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
            raise Unavailable(f"{method} {path}: {error!r}") from None


@asynccontextmanager
async def connected(url: str, key: str, authority: str) -> AsyncIterator[Api]:
    """A link to the gateway at ``url``; ``key`` and ``authority`` may be empty.

    Raises:
        Unavailable: the file of the authority cannot be used.
    """
    try:
        tls = ssl.create_default_context(cafile=authority or None)
    except OSError as error:  # ssl.SSLError too
        raise Unavailable(f"{authority}: {error.strerror or error}") from None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    connector = aiohttp.TCPConnector(ssl=tls)
    async with aiohttp.ClientSession(url.rstrip("/") + "/", headers=headers, timeout=timeout, connector=connector) as session:
        yield Api(session)


def asked(url: str, key: str, authority: str, ask: Callable[[Api], Awaitable[T]]) -> T:
    """What the gateway at ``url`` answered; where it did not, one line on standard error and the end of the command."""

    async def main() -> T:
        async with connected(url, key, authority) as api:
            return await ask(api)

    try:
        return asyncio.run(main())
    except TasError as error:
        errors.print(f"error: {error}", markup=False)
        raise typer.Exit(FAILED) from None


def _detail(text: bytes) -> str:
    """What a problem says, or the beginning of what is none."""
    try:
        found = msgspec.json.decode(text)
        return str(found["detail"])
    except (msgspec.MsgspecError, KeyError, TypeError, UnicodeDecodeError):
        return repr(text[:200])
