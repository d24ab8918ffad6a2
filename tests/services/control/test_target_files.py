"""Targets from files, on a real broker: the files are the whole truth, and only a whole and valid one is taken."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.control.editing import Editor
from services.control.lanes import Lanes
from services.control.parked import Parked
from services.control.removal import Removals
from services.control.settings import Settings
from services.control.store import Store
from services.control.target_files import LOOK_SECONDS, TargetFiles
from services.control.topology import Topology
from tas_mcp import telemetry
from tas_mcp.audit import Audit
from tas_mcp.presence import Presences
from tas_mcp.statuses import StatusBucket
from tests.nats_server import NatsServer
from tests.services.control.conftest import ready
from tests.services.control.rig import TARGETS, Rig, running, target, until

SECRET = "whsec_" + "A" * 32


def write(path: Path, *targets: dict[str, Any]) -> None:
    path.write_text(json.dumps(list(targets)))


def target_files(rig: Rig, path: Path, **environ: str) -> TargetFiles:
    """What follows the files, looking often."""
    store, settings = Store(rig.jetstream, rig.publisher), Settings()
    presences, topology = Presences(rig.connection, "process"), Topology(rig.connection, settings)
    lanes = Lanes(rig.jetstream, store, settings)
    parked, statuses = Parked(rig.jetstream, rig.publisher), StatusBucket(rig.jetstream, rig.publisher)
    removals = Removals(rig.jetstream, store, lanes, parked, presences, statuses)
    topology.trouble, audit = "", Audit(rig.publisher, "control")
    return TargetFiles(str(path), topology, store, Editor(store, lanes, presences, removals, audit), environ, 0.02)


@asynccontextmanager
async def following(rig: Rig, path: Path, **environ: str) -> AsyncIterator[TargetFiles]:
    async with target_files(rig, path, **environ).running() as files:
        yield files


async def holds(rig: Rig, **names: str | None) -> None:
    """Wait until these are the targets, each with its name."""

    async def same() -> bool:
        found = (await rig.call("GET", TARGETS)).body
        return {target_id: each.get("name") for target_id, each in found.items()} == names

    await until(same)


async def noted(files: TargetFiles, fits: Callable[[str], Any]) -> None:
    await until(lambda: asyncio.sleep(0, fits(files.note)))


async def history(rig: Rig) -> list[tuple[str, str, str]]:
    found = (await rig.call("GET", "/api/v1/revisions")).body["items"]
    return [(each["target_id"], each["change"], each["author"]) for each in reversed(found)]


async def test_the_files_are_the_whole_truth(rig: Rig, tmp_path: Path) -> None:
    await rig.call("POST", TARGETS, json=target("by_hand"))
    write(tmp_path / "one.json", target("a"), target("b"))
    (tmp_path / "two.yaml").write_text("id: c\ntype: webhook\nendpoint: http://localhost:1/${NAME}\n")
    async with following(rig, tmp_path, NAME="hook") as files:
        await holds(rig, a=None, b=None, c=None)
        await noted(files, lambda note: not note)
        assert (await rig.call("GET", f"{TARGETS}/c")).body["endpoint"] == "http://localhost:1/hook"
        assert (await rig.consumer("c"))["name"] == "fwd_c"
        write(tmp_path / "one.json", target("a", name="new"))
        await holds(rig, a="new", c=None)
        (tmp_path / "two.yaml").unlink()
        await holds(rig, a="new")
    written = [each for each in await history(rig) if each[1] != "erased"]
    folder, one, two = f"file:{tmp_path.name}", "file:one.json", "file:two.yaml"
    assert written[0] == ("by_hand", "saved", "anonymous")
    assert sorted(written[1:5]) == [
        ("a", "saved", one),
        ("b", "saved", one),
        ("by_hand", "removed", folder),
        ("c", "saved", two),
    ]
    assert sorted(written[5:7]) == [("a", "saved", one), ("b", "removed", folder)]
    assert written[7:] == [("c", "removed", folder)]


async def test_what_did_not_change_gets_no_revision(rig: Rig, tmp_path: Path) -> None:
    write(tmp_path / "a.json", target("a"))
    async with following(rig, tmp_path) as files, following(rig, tmp_path) as replica:
        await holds(rig, a=None)
        for each in (files, replica):
            await noted(each, lambda note: not note)
        (tmp_path / "a.json").write_text("# the same\n" + json.dumps(target("a")))
        write(tmp_path / "b.json", target("b"))
        await holds(rig, a=None, b=None)
    async with following(rig, tmp_path) as files:
        await noted(files, lambda note: not note)
    assert [each[:2] for each in await history(rig)] == [("a", "saved"), ("b", "saved")]


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("id: a", "targets.yaml:1: /type"),
        ("- {id: a, type: http, endpoint: 'http://x'}\n- {id: b, type: http, endpoint: x}", "targets.yaml:2: /endpoint"),
        ("{", "targets.yaml:"),
        ("", "holds no target"),
        ("{id: a, type: http, endpoint: 'http://${NO_SUCH}'}", "NO_SUCH is not set"),
        (None, "cannot be read: No such file"),
    ],
)
async def test_what_is_not_valid_leaves_all_as_it_is(rig: Rig, tmp_path: Path, content: str | None, note: str) -> None:
    path = tmp_path / "targets.yaml"
    write(path, target("a"))
    async with following(rig, path) as files:
        await holds(rig, a=None)
        path.unlink() if content is None else path.write_text(content)
        await noted(files, lambda found: note in found)
        assert 'mcp_document_valid{document="targets_file"} 0.0' in telemetry.render("")[0].decode()
        await holds(rig, a=None)
        write(path, target("a", name="mended"))
        await holds(rig, a="mended")
        await noted(files, lambda found: not found)
        assert 'mcp_document_valid{document="targets_file"} 1.0' in telemetry.render("")[0].decode()


async def test_a_file_that_is_being_written_is_not_taken(rig: Rig, tmp_path: Path) -> None:
    async def ids() -> list[str]:
        return list((await rig.call("GET", TARGETS)).body)

    path = tmp_path / "targets.json"
    files = target_files(rig, path)
    write(path, target("a"), target("b"))
    await files.look()
    assert await ids() == ["a", "b"], "what is there at the start is taken at once"
    for half in ([target("a")], []):
        write(path, *half)
        await files.look()
        assert await ids() == ["a", "b"]
    write(path, target("b"), target("c"))
    await files.look()
    assert await ids() == ["a", "b"]
    await files.look()
    assert await ids() == ["b", "c"]


async def test_an_empty_list_means_no_targets(rig: Rig, tmp_path: Path) -> None:
    write(tmp_path / "a.json", target("a"))
    async with following(rig, tmp_path):
        await holds(rig, a=None)
        (tmp_path / "a.json").write_text('{"targets": []}')
        await holds(rig)


async def test_a_volume_of_kubernetes_is_swapped(rig: Rig, tmp_path: Path) -> None:
    def lay(version: str) -> None:
        (tmp_path / version).mkdir()
        write(tmp_path / version / "a.json", target("a", name=version))
        (tmp_path / "..tmp").symlink_to(version)
        (tmp_path / "..tmp").rename(tmp_path / "..data")

    lay("..1")
    (tmp_path / "a.json").symlink_to("..data/a.json")
    async with following(rig, tmp_path):
        await holds(rig, a="..1")
        lay("..2")
        await holds(rig, a="..2")


async def test_a_target_that_is_still_being_removed_is_made_when_that_is_done(rig: Rig, tmp_path: Path) -> None:
    await rig.call("POST", TARGETS, json=target("a"))
    await rig.deliver("a")
    await rig.call("DELETE", f"{TARGETS}/a")
    write(tmp_path / "a.json", target("a", name="again"))
    async with following(rig, tmp_path) as files:
        await noted(files, lambda note: "being removed" in note)
        async with rig.pulling("DELIVERIES", "fwd_a") as pulled:
            await until(lambda: asyncio.sleep(0, pulled))
            pulled.pop().ack()
        await holds(rig, a="again")
        await noted(files, lambda note: not note)


async def test_the_service_takes_files_and_its_api_only_reads(nats: NatsServer, tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    write(path, target("a", config={"signing_secret": SECRET}))
    async with running(nats.url, targets_file=str(path)) as rig:
        await until(lambda: ready(rig))
        await holds(rig, a=None)
        one = f"{TARGETS}/a"
        for method, where, body in [
            ("POST", TARGETS, target("b")),
            ("PUT", one, target("a")),
            ("DELETE", one, None),
            ("POST", f"{one}/pause", None),
            ("POST", f"{one}/rollback", {"revision": 1}),
            ("POST", "/api/v1/revisions/rollback", {"revision": 1}),
        ]:
            answer = await rig.call(method, where, json=body)
            assert (answer.status, answer.body["code"]) == (409, "READ_ONLY"), where
            assert f"TAS_TARGETS_FILE={path}" in answer.body["detail"]
        assert (await rig.call("POST", "/api/v1/revisions/rollback", json={"revision": 1, "dry_run": True})).status == 200
        enabled = await rig.call("POST", f"{one}/enable")
        assert (enabled.status, enabled.headers["ETag"]) == (200, '"1"'), "it only forgets that the target was gone"
        path.write_text("[{}]")
        await until(lambda: asyncio.sleep(0.05, "targets.yaml:1" in rig.ops.readiness()[1]["targets_file"]["detail"]))
        rig.ops.serving = True
        assert rig.ops.readiness()[0], "invalid files do not make control unready"
        await holds(rig, a=None)


def test_a_change_is_seen_within_seconds() -> None:
    assert LOOK_SECONDS <= 1
