"""Makes the streams, the buckets and the fixed consumer, and keeps them as they should be: after each connect, and now and then.

Only ``control`` makes any; the other services wait for theirs. What is there already is brought to what is wanted, never emptied
and never replaced.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from services.control.settings import Settings
from services.control.streams import needed, process_consumer, streams, update
from tas_mcp import subjects, telemetry
from tas_mcp.background import background
from tas_mcp.broker import BrokerError, Connection, JetStream
from tas_mcp.broker.jetstream import STREAM_NOT_FOUND
from tas_mcp.errors import Misconfigured, Unavailable

log = telemetry.logger("topology")

SERVER_VERSION = (2, 12)
AGAIN_SECONDS = 1.0
RENEW_SECONDS = 30.0
READY_SECONDS = 5.0


class Topology:
    """``trouble`` says why the broker is not as it should be, or ``""``."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._jetstream = JetStream(connection)
        self._settings = settings
        self._look = asyncio.Event()
        self._made = asyncio.Event()
        self.trouble = "the streams were not looked at yet"

    async def made(self, timeout: float = READY_SECONDS) -> None:
        """Wait until everything was there once.

        Raises:
            Unavailable: it is not within ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._made.wait()
        except TimeoutError:
            raise Unavailable(f"the broker is not ready: {self.trouble}", 5.0) from None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Topology"]:
        """Does not wait for the broker."""
        with self._connection.watched(up=self._look.set):
            async with background(self._keep()):
                yield self

    async def _keep(self) -> None:
        while True:
            self._look.clear()
            if self._connection.connected:
                await self._try()
            else:
                self.trouble = f"waits for the broker: {self._connection.trouble}"
            try:
                async with asyncio.timeout(AGAIN_SECONDS if self.trouble else RENEW_SECONDS):
                    await self._look.wait()
            except TimeoutError:
                continue

    async def _try(self) -> None:
        try:
            await self._ensure()
        except (Misconfigured, BrokerError, Unavailable) as error:
            if self.trouble != error.detail:
                log.error("the broker is not as it should be", detail=error.detail)
            self.trouble = error.detail
        except Exception as error:
            log.exception("the streams could not be looked at")
            self.trouble = repr(error)
        else:
            if self.trouble:
                log.info("streams and consumers are in place")
            self.trouble = ""
            self._made.set()

    async def _ensure(self) -> None:
        self._check_version()
        await self._check_account()
        for wanted in streams(self._settings):
            await self._ensure_stream(wanted)
        await self._jetstream.ensure_consumer(subjects.EVENTS, process_consumer(self._settings))

    def _check_version(self) -> None:
        if self._connection.server_version < SERVER_VERSION:
            found, least = (".".join(map(str, version)) for version in (self._connection.server_version, SERVER_VERSION))
            raise Misconfigured(f"nats-server {found} is too old: {least} or newer is needed, for message schedules")

    async def _check_account(self) -> None:
        """Better said at the start than met when the last stream is full."""
        limit = int((await self._jetstream.call("INFO")).get("limits", {}).get("max_storage", -1))
        need = needed(self._settings)
        if 0 <= limit < need:
            raise Misconfigured(
                f"the NATS account may store {limit} bytes, but the streams need {need}: "
                f"raise its limit, or lower TAS_STORE_BYTES ({self._settings.store_bytes}; replicas {self._settings.replicas})"
            )

    async def _ensure_stream(self, wanted: dict[str, Any]) -> None:
        name = wanted["name"]
        try:
            current = (await self._jetstream.stream_info(name))["config"]
        except BrokerError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise
            await self._change("CREATE", wanted)
            log.info("stream made", stream=name)
            return
        changed = update(current, wanted)
        if changed is not None:
            await self._change("UPDATE", changed)
            log.info("stream changed", stream=name)

    async def _change(self, verb: str, config: dict[str, Any]) -> None:
        try:
            await self._jetstream.call(f"STREAM.{verb}.{config['name']}", config)
        except BrokerError as error:
            raise Misconfigured(
                f"stream {config['name']} cannot be made as it is needed: {error.detail}; see TAS_STORE_BYTES and TAS_REPLICAS, "
                "the server's max_file_store, and other streams of the account"
            ) from None
