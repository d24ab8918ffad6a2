"""The life of a process, from outside: started as ``python -m services.ingest``."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from services.ingest.settings import Settings
from tas_mcp.service import describe
from tests.nats_server import free_port
from tests.shared.rig import until

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "services.ingest"]


def environ(**values: str) -> dict[str, str]:
    """No broker is needed: a service starts without one, and says that it is not ready."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith("TAS_")}
    paths = f"{ROOT}{os.pathsep}{ROOT / 'shared'}"
    return {
        **bare,
        "PYTHONPATH": paths,
        "TAS_NATS_URL": "nats://127.0.0.1:1",
        "TAS_OPS_PORT": "0",
        "TAS_HTTP_PORT": "0",
        **values,
    }


def failed(**values: str) -> str:
    """The one line that a service says before it ends with 2."""
    done = subprocess.run(COMMAND, env=environ(**values), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert "Traceback" not in done.stderr
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_bad_value() -> None:
    assert failed(TAS_HTTP_PORT="eighty").startswith("error: TAS_HTTP_PORT: ")


@pytest.mark.parametrize("variable", ["TAS_HTTP_PORT", "TAS_OPS_PORT"])
def test_a_port_in_use(variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = failed(**{variable: str(port)})
    assert line == f"error: {variable}: cannot listen on 127.0.0.1:{port}: it is in use; set {variable} to a free port"


def test_an_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "tas.toml"
    path.write_text("[ingest]\nhttp_prot = 80\n")
    assert failed(TAS_CONFIG=str(path)).endswith("unknown key 'http_prot'; did you mean http_port?")


def test_a_missing_file(tmp_path: Path) -> None:
    line = failed(TAS_CONFIG=str(tmp_path / "no.toml"))
    assert line == f"error: TAS_CONFIG: cannot read {tmp_path / 'no.toml'}: No such file or directory"


def test_a_port_that_workers_cannot_share() -> None:
    done = subprocess.run([*COMMAND, "--workers", "2"], env=environ(), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "error: TAS_HTTP_PORT: 0 (any free port) cannot be shared" in done.stderr


def test_every_setting_is_described() -> None:
    done = subprocess.run([*COMMAND, "--help"], env=environ(), capture_output=True, text=True, timeout=30, check=True)
    assert describe(Settings) in done.stdout
    for name, default in (("TAS_HTTP_PORT", "8080"), ("TAS_NATS_URL", "'nats://127.0.0.1:4222'"), ("TAS_EXPRESS", "True")):
        assert [name, default] in [line.split() for line in describe(Settings).splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_started_not_ready_stopped(number: signal.Signals) -> None:
    ops, http = free_port(), free_port()
    values = environ(TAS_OPS_PORT=str(ops), TAS_HTTP_PORT=str(http), TAS_HTTP_PROT="1")
    process = await asyncio.create_subprocess_exec(*COMMAND, env=values, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        async with aiohttp.ClientSession() as session:

            async def asked(path: str, port: int = ops) -> int:
                try:
                    async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                        return answer.status
                except aiohttp.ClientConnectionError:
                    return 0

            async def started() -> bool:
                return await asked("/readyz") == 200

            await until(started)
            assert await asked("/ready") == 503, "there is no broker"
            assert await asked("/health", http) == 200
            event = b'{"event_type":"a","source":"b"}'
            async with session.post(f"http://127.0.0.1:{http}/api/v1/events", data=event) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        process.send_signal(number)
        _, err = await asyncio.wait_for(process.communicate(), 10)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in err
    assert b"TAS_HTTP_PROT is no setting of this service; did you mean TAS_HTTP_PORT?" in err
