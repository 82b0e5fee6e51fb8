# SPDX-License-Identifier: LGPL-2.1-or-later
"""The linters are tests: what CI would complain of fails here first."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON_TOOLS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
}
SCRIPTS = [
    ".ci/prepare",
    ".ci/run",
    "examples/desktop/desktop.sh",
    "examples/try",
    "tests/run",
    "slicemgr/completions/slicemgr.bash",
    "units/pam/slicemgr-session.sh",
]


def passes(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("tool", PYTHON_TOOLS)
def test_python(tool: str) -> None:
    """Formatted, linted, and typed strictly."""
    passes(sys.executable, "-m", *PYTHON_TOOLS[tool])


@pytest.mark.parametrize("script", SCRIPTS)
def test_shell(script: str) -> None:
    """Nothing that shellcheck knows better."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not here; try: sudo apt install shellcheck")
    passes("shellcheck", "--shell=bash", script)


def test_every_file_says_its_licence() -> None:
    """One line, where a tool finds it."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    endings = (
        *(".py", ".cpp", ".hpp", "Makefile", ".toml", ".bash", ".fish", ".sh", "_slicemgr"),
        *(".slice", ".service", ".conf", ".policy", ".desktop"),
    )
    files = [ROOT / name for name in tracked if name.endswith(endings) and name != "pyproject.toml"]
    without = [
        str(file) for file in files if "SPDX-License-Identifier: LGPL-2.1-or-later" not in file.read_text()[:200]
    ]
    assert not without
    assert files
