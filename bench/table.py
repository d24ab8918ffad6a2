"""Rows of results, as a table for people and JSON for machines."""

from msgspec import Struct


class Row(Struct, kw_only=True):
    """One figure. ``must`` is what it should reach at least (or, where ``at_most``, at most); of ``floor`` where there is one."""

    what: str
    value: float
    unit: str
    floor: float | None = None
    floor_what: str = ""
    must: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        return self.must is None or (self.value <= self.must if self.at_most else self.value >= self.must)


def show(rows: list[Row]) -> str:
    """The rows as text, one a line."""
    lines = [f"{'what':52} {'value':>12} {'unit':11} {'must':>11} {'floor':>10} {'ratio':>6}  note"]
    for row in rows:
        must = "" if row.must is None else f"{'<=' if row.at_most else '>='} {row.must:,.6g}"
        floor = "" if row.floor is None else f"{row.floor:,.0f}"
        ratio = "" if not row.floor else f"{row.value / row.floor:.2f}"
        mark = "" if row.met else "  BELOW"
        lines.append(f"{row.what:52} {row.value:>12,.2f} {row.unit:11} {must:>11} {floor:>10} {ratio:>6}  {row.note}{mark}")
    return "\n".join(lines)
