"""The gRPC contract: the generated code is that of the .proto files, the bytes are those that existing clients send."""

import subprocess
import sys
from pathlib import Path

import pytest

from tas_mcp.v1 import mcp_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTOS = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto").rglob("*.proto"))


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("proto")
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", *outputs, *map(str, PROTOS)]
    subprocess.run(command, check=True, cwd=ROOT / "proto")
    return out


def generated(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*_pb2*.py*") if path.suffix != ".pyc"}


def test_the_committed_code_is_what_the_protos_generate(regenerated: Path) -> None:
    fresh, committed = generated(regenerated), generated(ROOT / "shared")
    assert sorted(committed) == sorted(fresh)
    assert [name for name in fresh if fresh[name] != committed[name]] == [], "run `make proto`"


def field(number: int, value: bytes | int) -> bytes:
    """One protobuf field by hand: a varint for an int, else length-delimited. Only small numbers and lengths."""
    if isinstance(value, int):
        return bytes([number << 3]) + varint(value)
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value: int) -> bytes:
    head = bytearray()
    while value > 0x7F:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])


EVENT = b"".join(
    [
        field(1, b"evt-123"),
        field(2, b"user.created"),
        field(3, b"auth-service"),
        field(4, 1_703_001_234),
        field(5, b'{"user_id": "usr-456"}'),
        field(6, field(1, b"correlation_id") + field(2, b"req-789")),
        field(6, field(1, b"tenant") + field(2, b"a")),
    ]
)


@pytest.mark.parametrize("message", [mcp_pb2.IngestEventRequest, mcp_pb2.Event])
def test_bytes_of_an_existing_client(message: type[mcp_pb2.IngestEventRequest | mcp_pb2.Event]) -> None:
    event = message.FromString(EVENT)
    assert event.event_id == "evt-123"
    assert event.event_type == "user.created"
    assert event.source == "auth-service"
    assert event.timestamp == 1_703_001_234
    assert event.data == '{"user_id": "usr-456"}'
    assert dict(event.metadata) == {"correlation_id": "req-789", "tenant": "a"}


@pytest.mark.parametrize(
    ("message", "wire"),
    [
        (
            mcp_pb2.IngestEventResponse(event_id="e", success=True, message="m", timestamp=300, status="accepted"),
            field(1, b"e") + field(2, 1) + field(3, b"m") + field(4, 300) + field(5, b"accepted"),
        ),
        (
            mcp_pb2.StreamEventsRequest(event_types=["a", "b"], start_timestamp=7, follow=True),
            field(1, b"a") + field(1, b"b") + field(2, 7) + field(3, 1),
        ),
        (mcp_pb2.HealthCheckRequest(), b""),
        (
            mcp_pb2.HealthCheckResponse(healthy=True, status="healthy", details={"nats": "up"}, uptime=9),
            field(1, 1) + field(2, b"healthy") + field(3, field(1, b"nats") + field(2, b"up")) + field(4, 9),
        ),
        (mcp_pb2.MetricsRequest(), b""),
        (
            mcp_pb2.MetricsResponse(
                total_events=1, stream_events=2, forwarded_events=3, error_events=4, active_streams=5, uptime=6
            ),
            b"".join(field(number, number) for number in range(1, 7)),
        ),
        (
            mcp_pb2.EventBatch(sequence=5, events=[mcp_pb2.Event(event_id="e")]),
            field(1, 5) + field(2, field(1, b"e")),
        ),
        (
            mcp_pb2.IngestAck(sequence=5, results=[mcp_pb2.EventResult(event_id="e", status="rejected", code="C", message="m")]),
            field(1, 5) + field(2, field(1, b"e") + field(2, b"rejected") + field(3, b"C") + field(4, b"m")),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bytes_that_clients_get(message: mcp_pb2.IngestEventResponse, wire: bytes) -> None:
    assert message.SerializeToString(deterministic=True) == wire


def test_the_names_that_clients_call() -> None:
    service = mcp_pb2.DESCRIPTOR.services_by_name["MCPService"]
    assert service.full_name == "mcp.v1.MCPService"
    calls = {
        method.name: (
            method.input_type.name,
            method.client_streaming,
            method.output_type.name,
            method.server_streaming,
        )
        for method in service.methods
    }
    assert calls == {
        "IngestEvent": ("IngestEventRequest", False, "IngestEventResponse", False),
        "IngestBatch": ("EventBatch", False, "IngestAck", False),
        "IngestStream": ("EventBatch", True, "IngestAck", True),
        "StreamEvents": ("StreamEventsRequest", False, "Event", True),
        "EventStream": ("Event", True, "Event", True),
        "GetHealth": ("HealthCheckRequest", False, "HealthCheckResponse", False),
        "GetMetrics": ("MetricsRequest", False, "MetricsResponse", False),
    }
