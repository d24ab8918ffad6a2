"""Settings: environment over file over default, and every mistake named."""

from pathlib import Path

import pytest

from tas_mcp.errors import Misconfigured
from tas_mcp.settings import Count, Port, ServiceSettings, load


class Settings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Those of an imagined ingest service."""

    http_port: Port = 8080
    max_event_bytes: Count = 1000


class Sibling(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    in_flight: Count = 5


def config(folder: Path, text: str) -> dict[str, str]:
    path = folder / "tas.toml"
    path.write_text(text)
    return {"TAS_CONFIG": str(path)}


def wrong(environ: dict[str, str]) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(Settings, "ingest", environ)
    return caught.value.detail


def test_defaults() -> None:
    settings, warnings = load(Settings, "ingest", {})
    assert settings == Settings()
    assert warnings == []


def test_environment_over_table_over_top_over_default(tmp_path: Path) -> None:
    environ = config(
        tmp_path,
        'nats_url = "nats://top"\nlog_level = "error"\nops_port = 1\n[ingest]\nlog_level = "warning"\nops_port = 2\n'
        "max_event_bytes = 5\n[process]\nanything = 1\n",
    )
    settings, _ = load(Settings, "ingest", {**environ, "TAS_OPS_PORT": "3"})
    assert (settings.nats_url, settings.log_level, settings.ops_port) == ("nats://top", "warning", 3)
    assert (settings.max_event_bytes, settings.http_port) == (5, 8080)


def test_text_becomes_the_type_of_the_setting() -> None:
    settings, _ = load(Settings, "ingest", {"TAS_HTTP_PORT": "81", "TAS_DRAIN_SECONDS": "1.5"})
    assert (settings.http_port, settings.drain_seconds) == (81, 1.5)


def test_a_secret_may_come_from_a_file_and_the_variable_wins(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("from file\n")
    given = {"TAS_NATS_PASSWORD_FILE": str(path)}
    assert load(Settings, "ingest", given)[0].nats_password == "from file"
    assert load(Settings, "ingest", {**given, "TAS_NATS_PASSWORD": "plain"})[0].nats_password == "plain"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TAS_HTTP_PORT", "eighty"),
        ("TAS_HTTP_PORT", "65536"),
        ("TAS_HTTP_PORT", "-1"),
        ("TAS_HTTP_PORT", ""),
        ("TAS_MAX_EVENT_BYTES", "0"),
        ("TAS_DRAIN_SECONDS", "0"),
        ("TAS_DRAIN_SECONDS", "nan"),
        ("TAS_DRAIN_SECONDS", "inf"),
        ("TAS_LOG_LEVEL", "loud"),
        ("TAS_LOG_FORMAT", "xml"),
    ],
)
def test_a_bad_value_names_its_variable_and_shows_it(variable: str, value: str) -> None:
    detail = wrong({variable: value})
    assert detail.startswith(variable + ": ")
    assert repr(value) in detail


def test_a_bad_secret_is_not_shown(tmp_path: Path) -> None:
    detail = wrong(config(tmp_path, "nats_password = 31337\n"))
    assert "nats_password" in detail
    assert "31337" not in detail


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("http_port = 1\n", "unknown key 'http_port'"),
        ("nats_ulr = 'x'\n", "did you mean nats_url?"),
        ("[ingset]\n", "did you mean ingest?"),
        ("[ingest]\nhttp_prot = 1\n", "[ingest] unknown key 'http_prot'; did you mean http_port?"),
        ("[ingest]\nhttp_port = 'x'\n", "[ingest] http_port: "),
        ("ops_port = 70000\n", "tas.toml: ops_port: "),
        ("a = \n", "is no TOML"),
    ],
)
def test_a_mistake_in_the_file_names_file_and_key(tmp_path: Path, text: str, named: str) -> None:
    detail = wrong(config(tmp_path, text))
    assert str(tmp_path / "tas.toml") in detail
    assert named in detail


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    assert wrong({"TAS_CONFIG": str(tmp_path / "no")}).startswith("TAS_CONFIG: cannot read ")
    (tmp_path / "tas.toml").write_bytes(b"\xff\xfe")
    assert "is no TOML" in wrong({"TAS_CONFIG": str(tmp_path / "tas.toml")})
    assert wrong({"TAS_NATS_PASSWORD_FILE": str(tmp_path / "no")}).startswith("TAS_NATS_PASSWORD_FILE: cannot read ")


def test_unknown_variables_are_warned_about() -> None:
    environ = {"TAS_HTTP_PROT": "1", "TAS_INGEST_PORT_80_TCP": "tcp://", "TAS_IN_FLIGHT": "3", "TAS_TEST_KAFKA": "x", "PATH": "/"}
    _, warnings = load(Settings, "ingest", environ)
    assert warnings == [
        "TAS_HTTP_PROT is no setting of this service; did you mean TAS_HTTP_PORT?",
        "TAS_INGEST_PORT_80_TCP is no setting of this service",
        "TAS_IN_FLIGHT is no setting of this service",
    ]
    _, warnings = load(Settings, "ingest", environ, siblings=[Sibling])
    assert len(warnings) == 2
