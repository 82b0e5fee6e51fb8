# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines of README.md that a person types to install slicemgr: in that order each finds what it names.

They run in a shell, in a home and a clone of their own. slicemgr and what would change the machine are stand-ins, which
note how they were called; examples/try and tests/run, the lines before, have tests of their own.
"""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

NOTE = '#!/bin/sh\necho "${0##*/} $*" >>"$NOTES"\n'

SUDO = """#!/bin/sh
for word; do
    case $word in
    "$ELSEWHERE"/*) ;;
    /*) echo "sudo would touch $word" >&2; exit 99 ;;
    esac
done
exec "$@"
"""

PYTHON = """#!/bin/sh
test "$1 $2 $3" = "-m venv --system-site-packages" || exit 99
mkdir -p "$4/bin"
printf '#!/bin/sh\\ntest "$*" = "install ." && cp "$STANDIN" "%s/bin/slicemgr"\\n' "$4" >"$4/bin/pip"
chmod +x "$4/bin/pip"
"""
"""A venv whose pip puts slicemgr into it."""


AFTERWARDS = "slicemgr --version"
"""Typed after each block, by the name that the completions know."""


def block(introduction: str) -> str:
    """The indented lines after this paragraph."""
    found = re.search(
        rf"^{introduction}.*?\n\n((?:    [^\n]*\n)+)", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None, introduction
    return found[1]


@pytest.mark.parametrize(
    ("introduction", "called"),
    [
        (
            "And as a service",
            [
                "slicemgr install",
                "systemctl --user enable --now slicemgr",
                "slicemgr run -- make -j20",
                "slicemgr status",
                "slicemgr install --uninstall",
                AFTERWARDS,
            ],
        ),
        (
            "The same with the machine's manager",
            [
                "slicemgr install --system",
                "systemctl enable --now slicemgr",
                "systemctl --global enable slicemgr-session",
                AFTERWARDS,
            ],
        ),
    ],
)
def test_every_line_works_as_typed(tmp_path: Path, introduction: str, called: list[str]) -> None:
    """From a fresh clone with its .venv, and nothing of slicemgr on PATH."""
    clone, home, standins = tmp_path / "clone", tmp_path / "home", tmp_path / "standins"
    elsewhere = tmp_path / "elsewhere"
    for folder in (clone / ".venv/bin", home, standins, elsewhere / "opt", elsewhere / "usr/local/bin"):
        folder.mkdir(parents=True)
    for file, text in (
        (clone / ".venv/bin/slicemgr", NOTE),
        (standins / "systemctl", NOTE),
        (standins / "sudo", SUDO),
        (standins / "python3", PYTHON),
    ):
        file.write_text(text)
        file.chmod(0o755)
    lines = re.sub(r"(?<![\w~.])/(opt|usr)\b", rf"{elsewhere}/\1", block(introduction))
    environment = {
        "HOME": str(home),
        "PATH": f"{standins}:{elsewhere}/usr/local/bin:/usr/bin:/bin",
        "NOTES": str(tmp_path / "notes"),
        "ELSEWHERE": str(elsewhere),
        "STANDIN": str(clone / ".venv/bin/slicemgr"),
    }
    done = subprocess.run(
        ["bash", "-euc", f"{lines}\n{AFTERWARDS}"], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "notes").read_text().splitlines() == called
