"""The key set of an identity provider, fetched or read beforehand, never while a caller waits.

It is looked at every five minutes (a file: each second), and soon after a token came that is signed with a key that is not in it,
but not within ten seconds of the last look, so that made-up tokens cannot have it fetched without end. What cannot be used leaves
the keys in force that were.
"""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import aiohttp

from tas_mcp import telemetry
from tas_mcp.auth.tokens import KeySet, read_keys
from tas_mcp.background import background
from tas_mcp.errors import Misconfigured

log = telemetry.logger("auth")

FILE_SECONDS = 1.0
FETCH_SECONDS = 300.0
FAILED_SECONDS = 5.0
"""After how long a fetch that failed is tried again."""
PAUSE_SECONDS = 10.0
"""How soon after the last look a key that is not known makes us look again."""
TIMEOUT_SECONDS = 5.0
MAX_BYTES = 1_048_576


class Issuer:
    """``use`` gets each new key set. ``trouble`` says why there is none yet, ``note`` why the newest cannot be had; or ``""``."""

    def __init__(self, url: str, file: str, use: Callable[[KeySet], None], pause: float = PAUSE_SECONDS) -> None:
        """
        Raises:
            Misconfigured: the URL is none that keys may be had from, or the file holds none.
        """
        self._url = url
        self._file = Path(file) if file else None
        self._use = use
        self._pause = pause
        self._document = b""
        self._wanted = asyncio.Event()
        self._looking = False
        self._looked_at = float("-inf")
        self.loaded = asyncio.Event()
        self.trouble = "the keys of the tokens' issuer were not fetched yet"
        self.note = ""
        if self._file:
            self._take(self._read(self._file))
        elif not _may_fetch(url):
            raise Misconfigured(f"TAS_JWT_JWKS_URL: {url!r} is no https:// URL (http:// only on this machine)")

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Issuer"]:
        """Follow the keys while inside."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, background(self._follow(session)):
            yield self

    def want(self) -> bool:
        """A key is missing. Whether the set is being looked at, or soon will be."""
        if monotonic() - self._looked_at > self._pause:
            self._wanted.set()
        return self._looking or self._wanted.is_set()

    async def _follow(self, session: aiohttp.ClientSession) -> None:
        while True:
            self._looking, self._looked_at = True, monotonic()
            self._wanted.clear()
            try:
                self._take(self._read(self._file) if self._file else await self._fetch(session))
                self.note = ""
            except (ValueError, OSError, aiohttp.ClientError, TimeoutError, Misconfigured) as error:
                note = f"the keys of the tokens' issuer cannot be had, the old ones stay in force: {_said(error)}"
                if note != self.note:
                    log.error("the keys of the tokens' issuer cannot be had", detail=repr(error))
                self.note = note
                if not self.loaded.is_set():
                    self.trouble = note
            self._looking = False
            pause = FILE_SECONDS if self._file else FAILED_SECONDS if self.note else FETCH_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def _fetch(self, session: aiohttp.ClientSession) -> bytes:
        async with session.get(self._url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"{self._url} answered {answer.status}")
            document = await answer.content.read(MAX_BYTES + 1)
            while len(document) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES)):
                document += more
        if len(document) > MAX_BYTES:
            raise ValueError(f"{self._url} answered with more than {MAX_BYTES} bytes")
        return document

    def _read(self, file: Path) -> bytes:
        try:
            return file.read_bytes()
        except OSError as error:
            raise Misconfigured(f"TAS_JWT_JWKS_FILE: cannot read {file}: {error.strerror}") from None

    def _take(self, document: bytes) -> None:
        if document != self._document:
            try:
                keys = read_keys(document)
            except ValueError as error:
                if self._file and not self.loaded.is_set():
                    raise Misconfigured(f"TAS_JWT_JWKS_FILE: {self._file}: {error}") from None
                raise
            self._use(keys)
            self._document = document
            log.info("the keys of the tokens' issuer are in force", keys=sorted(keys))
        self.trouble = ""
        self.loaded.set()


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _may_fetch(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return True
    return parts.scheme == "http" and parts.hostname is not None and on_loopback(parts.hostname)


def on_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
