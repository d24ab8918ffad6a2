"""The commands of the runbook are run, in their order, against a gateway with services apart."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.system import BIN, ROOT, running
from tests.e2e.test_docs import blocks

SETTINGS = re.compile(r"^export TAS_URL=\S+ OPS=\S+ ", re.MULTILINE)


@pytest.mark.skipif(not shutil.which("curl"), reason="the commands are curl's, which is not installed")
async def test_the_commands_of_the_runbook_work(tmp_path: Path) -> None:
    first, *rest = blocks(ROOT / "docs" / "runbook.md", "sh")
    assert len(rest) >= 12
    (tmp_path / "admin.key").write_text("nobody is asked for it here")
    async with running(tmp_path) as system:
        await system.put({"id": "orders", "type": "webhook", "endpoint": "http://127.0.0.1:1/"})
        first, found = SETTINGS.subn(f"export TAS_URL={system.control} OPS={system.ops('forward')} ", first)
        assert found == 1
        for block in rest:
            done = subprocess.run(
                ["bash", "-c", f"set -euo pipefail\n{first}\n{block}"],
                cwd=tmp_path,
                env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, (block, done.stdout, done.stderr)
            assert done.stdout.strip(), block
