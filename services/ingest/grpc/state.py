"""How this replica does, as ``GetHealth`` and ``GetMetrics`` show it."""

from services.ingest.grpc.calls import Calls
from tas_mcp import telemetry
from tas_mcp.ops import Ops
from tas_mcp.v1 import mcp_pb2

ERRORS = ("rejected", "limited", "unavailable")


class State:
    """Reads the readiness and the counters of the process."""

    def __init__(self, ops: Ops, calls: Calls) -> None:
        self._ops = ops
        self._calls = calls

    def health(self) -> mcp_pb2.HealthCheckResponse:
        healthy, checks = self._ops.readiness()
        details = {name: ": ".join(filter(None, (check["status"], check["detail"]))) for name, check in checks.items()}
        return mcp_pb2.HealthCheckResponse(
            healthy=healthy, status="healthy" if healthy else "unhealthy", details=details, uptime=self._uptime()
        )

    def metrics(self) -> mcp_pb2.MetricsResponse:
        """``total_events`` are those accepted by any protocol, ``stream_events`` those by gRPC; forwarded is what the forward
        tier has delivered where it is in the same process, else 0."""
        return mcp_pb2.MetricsResponse(
            total_events=int(telemetry.total("mcp_events", outcome=("accepted", "duplicate"))),
            stream_events=int(telemetry.total("mcp_events", protocol=("grpc",), outcome=("accepted", "duplicate"))),
            forwarded_events=int(telemetry.total("mcp_deliveries", outcome=("delivered",))),
            error_events=int(telemetry.total("mcp_events", outcome=ERRORS)),
            active_streams=self._calls.streams,
            uptime=self._uptime(),
        )

    def _uptime(self) -> int:
        return int(self._ops.uptime_seconds * 1000)
