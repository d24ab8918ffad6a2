"""``tas keys`` as a user meets it, on a real gateway."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.e2e.system import BIN, environment
from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import ADMIN, TARGETS, Rig, running, until


@pytest.fixture
async def rig(nats: NatsServer) -> AsyncIterator[Rig]:
    async with running(nats.url, auth="auto", admin_key=ADMIN) as found:
        await until(lambda: ready(found))
        yield found


async def keys(rig: Rig, *words: str, key: str = ADMIN) -> tuple[int, str, str]:
    environ = {**environment(), "TAS_URL": rig.base, "TAS_API_KEY": key}
    command = [str(BIN / "tas"), "keys", *words]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environ)
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def in_force(rig: Rig, key: str, status: int) -> bool:
    return (await rig.call_with(key, "GET", TARGETS)).status == status


async def test_the_life_of_a_key(rig: Rig) -> None:
    code, out, err = await keys(rig, "create", "shop", "--scope", "targets:read", "--source", "shop-*", "--expires", "90d")
    assert code == 0, err
    first = out.strip()
    key_id = first.split("_")[1]
    assert err.startswith(f"{key_id}: shop, targets:read, ends: ")
    await until(lambda: in_force(rig, first, 200))

    code, out, err = await keys(rig, "rotate", key_id, "--overlap", "0s")
    assert code == 0, err
    second = out.strip()
    assert f"{key_id} lets in until " in err
    await until(lambda: in_force(rig, first, 401))
    await until(lambda: in_force(rig, second, 200))

    code, out, _ = await keys(rig, "list")
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 3)
    assert all(" shop " in line and "shop-*" in line and "bootstrap" in line for line in lines[1:])
    assert first not in out
    assert second not in out

    code, out, _ = await keys(rig, "revoke", second.split("_")[1])
    assert code == 0
    assert out.startswith(f"revoked: {second.split('_')[1]}")
    await until(lambda: in_force(rig, second, 401))


@pytest.mark.parametrize(
    ("words", "key", "said"),
    [
        (["create", "shop", "--scope", "root"], ADMIN, "422 the key is not valid: /scopes/0"),
        (["revoke", "0123456789ab"], ADMIN, "404 there is no key '0123456789ab'"),
        (["list"], "planted-secret", "401 the credential is no API key"),
        (["list"], "", "401 send an API key"),
    ],
)
async def test_what_goes_wrong_is_one_line_and_the_code_2(rig: Rig, words: list[str], key: str, said: str) -> None:
    code, out, err = await keys(rig, *words, key=key)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("error: ")
    assert said in err
    assert "planted-secret" not in err
