"""``python -m bench.profile TIER`` (``make profile TIER=ingest``): a flame graph of a tier under load, beside what it reached."""

import sys

from bench import forward, ingest, routing
from bench.stage import Stage
from bench.table import show

TIERS = {"ingest": ingest.measure, "process": routing.measure, "forward": forward.measure}


def main() -> None:
    tier = sys.argv[1] if len(sys.argv) > 1 else ""
    if tier not in TIERS:
        sys.exit(f"name a tier: {', '.join(TIERS)}")
    Stage.profiled = tier
    print(show(TIERS[tier](5.0, 1)))
    print(f"flame graph: profile-{tier}.svg")


if __name__ == "__main__":
    main()
