"""The way in that all protocols share."""

from typing import cast

from services.ingest.intake import Accepted, Counted, Intake
from services.ingest.rates import Allowance, Rates, Shares
from services.ingest.schemas import Schemas
from tas_mcp import submission
from tas_mcp.broker import Publisher
from tas_mcp.callers import ANYBODY
from tas_mcp.errors import TasError
from tests.services.ingest.lanes import Store


def test_an_answer_keeps_nothing_of_what_was_sent_alive() -> None:
    """Neither the frames of its traceback nor those of the error before it, which hold the body."""
    found: list[Accepted | TasError] = []
    publisher = cast(Publisher, Store())
    schemas = Schemas(publisher)
    schemas.use([])
    rates = Rates(Allowance(requests=1), Allowance(), 1, Shares(lambda: 1))
    here = Intake(publisher, submission.Limits(), schemas, rates)
    for body in (b'{"event_type":', b"{}"):  # not read; too many
        here.submit(body, len(body), submission.read, ANYBODY, Counted("test"), found.append)
    assert [type(each).__name__ for each in found] == ["Rejected", "Overloaded"]
    assert [getattr(each, name) for each in found for name in ("__traceback__", "__context__")] == [None] * 4
