"""The short version of tests/chaos/test_kills.py: ten kills, half a minute."""

from pathlib import Path

from tests.chaos import campaign

KILLS, SEED, RATE = 10, 796, 300.0


async def test_nothing_is_lost_over_ten_kills(tmp_path: Path) -> None:
    result = await campaign.run(tmp_path, KILLS, SEED, RATE, print)
    print(result)
    assert result.ok, str(result)
    assert result.verdict.counts.ok > 500
    assert result.verdict.counts.deliveries > 500
