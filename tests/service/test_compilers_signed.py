# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signatures of what the compilers of this machine really start: the same in each run, and each its own."""

import shlex
import subprocess
from pathlib import Path

import pytest

from slicemgr.build.signature import signature_of
from slicemgr.build.steps import is_driver


def started_by(command: str, directory: Path) -> list[list[str]]:
    """What gcc would start, by its -###; temporary names are others each time."""
    done = subprocess.run(
        [*shlex.split(command), "-###"], cwd=directory, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [shlex.split(line.removesuffix(" |")) for line in done.stderr.splitlines() if line.startswith((' "', " /"))]  # fmt: skip


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for name in ("a/x.cc", "b/x.cc", "y.c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("int f(void) { return 0; }\n")
    (tmp_path / "obj").mkdir()
    return tmp_path


COMMANDS = [
    "g++ -c a/x.cc -o obj/a-x.o",
    "g++ -c b/x.cc -o obj/b-x.o",
    "g++ -O2 -flto -c a/x.cc -o obj/lto-x.o",
    "gcc -pipe -c y.c -o obj/y.o",
    "gcc y.c -o prog",
    "gcc -S y.c -o obj/y.s",
]


def test_the_same_in_each_run(sources: Path) -> None:
    """Though the names of temporary files are others."""
    for command in COMMANDS:
        one, other = started_by(command, sources), started_by(command, sources)
        assert one
        signatures = [signature_of(arguments, "/a") for arguments in one]
        assert signatures == [signature_of(arguments, "/a") for arguments in other]
        if "-pipe" not in command and "-S" not in command:
            assert one != other


def test_a_flag_makes_no_other_step(sources: Path) -> None:
    """Nor do more of them."""
    (plain, *_), (debug, *_) = (
        started_by(f"g++ {flags} -c a/x.cc -o obj/x.o", sources) for flags in ("-O2", "-g -O0 -DX")
    )
    assert plain != debug
    assert signature_of(plain, "/a") == signature_of(debug, "/a")


def test_each_compiler_has_its_own(sources: Path) -> None:
    """By its output, which is in the name: people read them."""
    compilers = [started_by(command, sources)[0] for command in COMMANDS]
    told = [signature_of(arguments, "/a").what for arguments in compilers]
    assert len(set(told)) == len(COMMANDS)
    assert [each for each in told if "/tmp" in each] == []
    for command, what in zip(COMMANDS, told, strict=True):
        output = command.partition(" -o ")[2].rpartition(".")[0] or "prog"
        assert what.startswith(output)


def test_what_computes_is_a_step(sources: Path) -> None:
    """And the driver that starts it is none."""
    for command in COMMANDS:
        assert is_driver(command.split()[0])
        for arguments in started_by(command, sources):
            name = arguments[0].rpartition("/")[2]
            assert is_driver(name) == (name == "collect2")
