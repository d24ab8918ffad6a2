"""``tas audit verify`` as a user meets it, on a real log."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tas_mcp import subjects
from tests.e2e.system import BIN
from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import TARGETS, Rig, running, target, until


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    """A control service, and three records."""
    async with running(nats.url) as found:
        await until(lambda: ready(found))
        for name in "abc":
            assert (await found.call("PUT", f"{TARGETS}/{name}", json=target(name))).status == 200
        yield found


async def verify(base: str, *options: str) -> tuple[int, str, str]:
    words = [str(BIN / "tas"), "audit", "verify", "--url", base, *options]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_log_that_is_as_it_was_written_is_intact(rig: Rig) -> None:
    code, out, _ = await verify(rig.base)
    assert (code, out) == (0, "intact: records 1 to 3, of 1 writers\n")


async def test_a_record_that_somebody_put_in_is_named(rig: Rig) -> None:
    [stored] = (await rig.call("GET", "/api/v1/audit/log?limit=1")).body["items"]
    forged = {**stored, "author": "mallory"}
    del forged["seq"]
    await rig.publisher.store(subjects.audit("targets"), json.dumps(forged).encode())
    code, out, _ = await verify(rig.base)
    assert code == 1
    assert out.splitlines()[0] == "4: it was edited: its hash is not that of what it says"
    assert out.splitlines()[-1] == f"faults: {len(out.splitlines()) - 1}"


async def test_a_log_made_anew_is_found_by_the_heads_that_were_kept(rig: Rig, tmp_path: Path) -> None:
    heads = tmp_path / "heads.json"
    assert (await verify(rig.base, "--heads", str(heads)))[0] == 0
    kept = heads.read_text()
    config = (await rig.jetstream.stream_info(subjects.AUDIT))["config"]
    stored = [(await rig.jetstream.message(subjects.AUDIT, seq)) for seq in (1, 2)]
    await rig.jetstream.call(f"STREAM.DELETE.{subjects.AUDIT}")
    await until(lambda: made(rig, config))
    for message in stored:
        assert message is not None
        await rig.publisher.store(message.subject, message.data)
    assert (await verify(rig.base))[0] == 0
    code, out, _ = await verify(rig.base, "--heads", str(heads))
    assert code == 1
    assert out.startswith("2: the log ends here, but went on to 3 at an earlier verification\n")
    assert heads.read_text() == kept


async def made(rig: Rig, config: dict[str, object]) -> bool:
    """Whether the log is there, made by the janitor or here."""
    await rig.jetstream.call(f"STREAM.CREATE.{subjects.AUDIT}", config)
    return True


async def test_what_cannot_be_read_ends_with_2_and_one_line(rig: Rig, tmp_path: Path) -> None:
    code, out, err = await verify(rig.base + "/nothing")
    assert (code, out) == (2, "")
    assert err.startswith("error: GET ")
    heads = tmp_path / "heads.json"
    heads.write_text("[]")
    code, out, err = await verify(rig.base, "--heads", str(heads))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {heads}: ")
