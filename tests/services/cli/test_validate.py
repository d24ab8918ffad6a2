"""``tas validate`` as a user meets it."""

import subprocess
from pathlib import Path

from tests.e2e.system import BIN

GOOD = "id: a\ntype: webhook\nendpoint: http://host/\nconfig: {signing_secret: '${NOT_SET_HERE}'}\n"


def validate(*paths: Path) -> tuple[int, str]:
    done = subprocess.run([BIN / "tas", "validate", *paths], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_valid_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.json").write_text('[{"id": "b", "type": "http", "endpoint": "http://host/"}]')
    assert validate(tmp_path) == (0, "valid targets: 2\n")
    assert validate(tmp_path / "a.yaml", tmp_path / "b.json") == (0, "valid targets: 2\n")


def test_every_problem_is_a_line_and_the_exit_code_is_1(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + "enabled: maybe\n")
    (tmp_path / "b.yaml").write_text("\n" + GOOD + "paused: [true]\n")
    code, out = validate(tmp_path)
    assert code == 1
    assert out.splitlines() == [
        f"{tmp_path}/a.yaml:5: /enabled: Expected `bool`, got `str`",
        f"{tmp_path}/b.yaml:6: /paused: Expected `bool`, got `array`",
        f"{tmp_path}/b.yaml:2: /id: target 'a' is in {tmp_path}/a.yaml:1 already",
    ]
    assert validate(tmp_path / "none.yaml") == (1, f"{tmp_path}/none.yaml: cannot be read: No such file or directory\n")
