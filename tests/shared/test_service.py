"""The life of a process, from outside: started as ``python -m services.ingest``.

Starting an interpreter takes a second, so the processes of a test start together.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from services.ingest.settings import Settings
from tas_mcp.errors import Misconfigured
from tas_mcp.ops import Ops
from tas_mcp.service import Runtime, describe
from tests.ports import free_port
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
        "TAS_GRPC_PORT": "0",
        **values,
    }


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("settings")
    (found / "typo.toml").write_text("[ingest]\nhttp_prot = 80\n")
    return found


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port that somebody else has."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture(scope="module")
def ended(folder: Path, taken: int) -> dict[str, Ended]:
    """How the processes end that cannot start, and one that only has to help."""
    cases: dict[str, tuple[list[str], dict[str, str]]] = {
        "bad value": ([], {"TAS_HTTP_PORT": "eighty"}),
        "http port in use": ([], {"TAS_HTTP_PORT": str(taken)}),
        "grpc port in use": ([], {"TAS_GRPC_PORT": str(taken)}),
        "ops port in use": ([], {"TAS_OPS_PORT": str(taken)}),
        "unknown key": ([], {"TAS_CONFIG": str(folder / "typo.toml")}),
        "open to all": ([], {"TAS_HOST": "0.0.0.0"}),
        "missing file": ([], {"TAS_CONFIG": str(folder / "no.toml")}),
        "workers": (["--workers", "2"], {}),
        "no broker": ([], {"TAS_NATS_URL": "nats://127.0.0.1:42x2"}),
        "workers without a broker": (
            ["--workers", "2"],
            {"TAS_NATS_URL": "nats://:1", "TAS_HTTP_PORT": str(free_port()), "TAS_GRPC_PORT": str(free_port())},
        ),
        "help": (["--help"], {}),
    }
    started = {
        name: subprocess.Popen(
            [*COMMAND, *arguments], env=environ(**values), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name, (arguments, values) in cases.items()
    }
    found = {}
    for name, process in started.items():
        try:
            out, err = process.communicate(timeout=200)
        finally:
            process.kill()
        found[name] = Ended(process.returncode, out, err)
    return found


def line(ended: Ended) -> str:
    """The one line that a service says before it ends with 2."""
    lines = [each for each in ended.err.splitlines() if not each.startswith("{")]
    assert ended.code == 2
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert len(lines) == 1
    return lines[0]


def test_a_bad_value(ended: dict[str, Ended]) -> None:
    assert line(ended["bad value"]) == "error: TAS_HTTP_PORT: Expected `int`, got `str` (it is 'eighty')"


@pytest.mark.parametrize(
    ("name", "variable"),
    [("http port in use", "TAS_HTTP_PORT"), ("grpc port in use", "TAS_GRPC_PORT"), ("ops port in use", "TAS_OPS_PORT")],
)
def test_a_port_in_use(ended: dict[str, Ended], taken: int, name: str, variable: str) -> None:
    wanted = f"error: {variable}: cannot listen on 127.0.0.1:{taken}: it is in use; set {variable} to a free port"
    assert line(ended[name]) == wanted


def test_an_unknown_key(ended: dict[str, Ended]) -> None:
    assert line(ended["unknown key"]).endswith("typo.toml: [ingest] unknown key 'http_prot'; did you mean http_port?")


def test_a_missing_file(ended: dict[str, Ended], folder: Path) -> None:
    assert line(ended["missing file"]) == f"error: TAS_CONFIG: cannot read {folder / 'no.toml'}: No such file or directory"


def test_a_service_that_others_can_reach_and_that_knows_nobody(ended: dict[str, Ended]) -> None:
    said = line(ended["open to all"])
    for named in ("TAS_HOST=0.0.0.0", "TAS_ADMIN_KEY_FILE", "TAS_AUTH=keys", "TAS_AUTH=none"):
        assert named in said


def test_a_port_that_workers_cannot_share(ended: dict[str, Ended]) -> None:
    assert line(ended["workers"]).startswith("error: TAS_HTTP_PORT: 0 (any free port) cannot be shared")


def test_a_broker_that_is_none(ended: dict[str, Ended]) -> None:
    assert line(ended["no broker"]) == (
        "error: TAS_NATS_URL: 'nats://127.0.0.1:42x2' is no address: write nats://host:4222, several with commas between"
    )
    assert ended["workers without a broker"].code == 2
    assert "TAS_NATS_URL" in ended["workers without a broker"].err


@pytest.mark.parametrize(
    "urls",
    [
        "",
        "nats://",
        "nats://a:0",
        "nats://a:99999",
        "nats://a:-1",
        "http://a",
        "nats://[::1",
        "a, ",
        "a,nats://b:c",
        "a\nb",
        ":1",
    ],
)
async def test_what_is_no_address_of_a_broker(urls: str) -> None:
    with pytest.raises(Misconfigured, match="TAS_NATS_URL"):
        Runtime("ingest", Settings(nats_url=urls), Ops())


async def test_the_password_in_an_address_is_not_told() -> None:
    with pytest.raises(Misconfigured) as refused:
        Runtime("ingest", Settings(nats_url="nats://ann:secret@b:x"), Ops())
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("urls", ["a", "a:1", "nats://a", "tls://[::1]:4222, nats://ann:p%40ss@b", "127.0.0.1:4222"])
async def test_addresses_of_a_broker(urls: str) -> None:
    Runtime("ingest", Settings(nats_url=urls), Ops())


def test_every_setting_is_described(ended: dict[str, Ended]) -> None:
    assert ended["help"].code == 0
    assert describe(Settings) in ended["help"].out
    described = [each.split() for each in describe(Settings).splitlines()]
    for name, default in (("TAS_HTTP_PORT", "8080"), ("TAS_NATS_URL", "'nats://127.0.0.1:4222'"), ("TAS_EXPRESS", "True")):
        assert [name, default] in described


async def test_started_not_ready_stopped() -> None:
    await asyncio.gather(*(live(number) for number in (signal.SIGTERM, signal.SIGINT)))


async def live(number: signal.Signals) -> None:
    """Start, ask, end with a signal."""
    ops, http = free_port(), free_port()
    values = environ(TAS_OPS_PORT=str(ops), TAS_HTTP_PORT=str(http), TAS_HTTP_PROT="1", TAS_AUTH="none")
    process = await asyncio.create_subprocess_exec(*COMMAND, env=values, stderr=asyncio.subprocess.PIPE)
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
        _, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in err
    assert b"TAS_HTTP_PROT is no setting of this service; did you mean TAS_HTTP_PORT?" in err
