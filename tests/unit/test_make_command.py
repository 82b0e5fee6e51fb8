# SPDX-License-Identifier: LGPL-2.1-or-later
"""make's command line without its -j: tables that are held against the real make, and whatever hypothesis finds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicemgr.build.jobserver import Jobserver
from slicemgr.build.make_command import UNLIMITED_PER_CORE, MakeCommand, make_command, takes_tokens, with_jobserver

if TYPE_CHECKING:
    from pathlib import Path

ALL = max(2, UNLIMITED_PER_CORE * len(os.sched_getaffinity(0)))
"""What an unlimited -j is."""

# Arguments of make -> what remains of them, and the ceiling. Split at blanks; '' is the empty word.
TAKEN = [
    ("-j20", "", 20),
    ("-j 20", "", 20),
    ("-j03", "", 3),
    ("-j", "", ALL),
    ("-j all", "all", ALL),
    ("-j 3all", "3all", ALL),
    ("-j .5", ".5", ALL),
    ("-j -k", "-k", ALL),
    ("all -j8", "all", 8),
    ("-j 4 all", "all", 4),
    ("all -j 8 install", "all install", 8),
    ("-kj20", "-k", 20),
    ("-kj 20", "-k", 20),
    ("-kj", "-k", ALL),
    ("-skj7 all", "-sk all", 7),
    ("-j4 -j8", "", 8),
    ("-j4 -j", "", ALL),
    ("-j -j5", "", 5),
    ("-j 4 -j 5", "", 5),
    ("-j1 -j5", "", 5),
    ("-ksj3 -j 6 -w", "-ks -w", 6),
    ("--jobs=5", "", 5),
    ("--jobs 5 all", "all", 5),
    ("--jobs", "", ALL),
    ("--jobs all", "all", ALL),
    ("--jobs=5 --keep-going", "--keep-going", 5),
    ("-C . -j3", "-C .", 3),
    ("-C. -j3", "-C.", 3),
    ("-kC . -j3", "-kC .", 3),
    ("--directory . -j4", "--directory .", 4),
    ("--dir . -j4", "--dir .", 4),
    ("--directory=. -j4", "--directory=.", 4),
    ("-f Makefile -j3", "-f Makefile", 3),
    ("-f other-j9 -j3", "-f other-j9", 3),
    ("-o -j9 -j3", "-o -j9", 3),
    ("-W x -j3", "-W x", 3),
    ("--assume-new x -j3", "--assume-new x", 3),
    ("-I -j9 -j3", "-I -j9", 3),
    ("-E X=-j9 -j4", "-E X=-j9", 4),
    ("--eval X=1 -j4", "--eval X=1", 4),
    ("-l -j3", "-l", 3),
    ("-l 40 -j3", "-l 40", 3),
    ("-l40.5 -j3", "-l40.5", 3),
    ("-l .5 -j3", "-l .5", 3),
    ("-l x -j3", "-l x", 3),
    ("--load-average 40 -j3", "--load-average 40", 3),
    ("--max-load=40 -j3", "--max-load=40", 3),
    ("-l 4 0 -j 3", "-l 4 0", 3),
    ("-O -j3", "-O", 3),
    ("-Oline -j3", "-Oline", 3),
    ("-O line -j3", "-O line", 3),
    ("--output-sync=line -j3", "--output-sync=line", 3),
    ("--output-sync -j3", "--output-sync", 3),
    ("-bj3", "-b", 3),
    ("-mj3", "-m", 3),
    ("-Sj3", "-S", 3),
    ("-rRj3", "-rR", 3),
    ("-nj3", "-n", 3),
    ("-j3 X=1", "X=1", 3),
    ("-j3 X=-j9", "X=-j9", 3),
    ("-j3 -- -j9", "-- -j9", 3),
    ("-j3 X=1 -- -j5 all", "X=1 -- -j5 all", 3),
    ("-j3 --no-print-directory", "--no-print-directory", 3),
    ("-j3 --warn-undefined-variables", "--warn-undefined-variables", 3),
    ("-j3 --stop", "--stop", 3),
    ("-j3 --dry", "--dry", 3),
    ("-j3 --quie", "--quie", 3),
    ("-j3 -", "-", 3),
    ("-j2147483647", "", 2147483647),
    ("-j000000000000000000004", "", 4),
]

# What make refuses, and what has nothing to pace.
LEFT = [
    "", "-k", "all", "-j1", "-j 1", "-j8 -j1", "-kj1", "--jobs=1", "-- -j8",
    "-j0", "-j 0", "-j20k", "-jk", "-j=4", "-j '' all", "--jobs=", "--jobs=x", "--jobs=0", "-j8 -j0",
    "--job=5", "--jo 5", "-xj3", "--xyz -j3", "--keep-going=1 -j3", "-j3 -C", "-j3 --file", "-j3 --n", "-j3 --pri",
    "-C -j3", "-f -j3", "-Cj3", "-j4294967297", "-j99999999999999999999",
]  # fmt: skip

# Where versions differ: 4.3 refuses all; 4.4.1 reads +3 as 3, the last one as no -j, and at -3 it stands still.
LEFT_UNTRIED = ["-j+3", "-j-3", "-j" + 5000 * "9"]

MAKE = shutil.which("make")
needs_make = pytest.mark.skipif(MAKE is None, reason="needs make")


def words(text: str) -> list[str]:
    return [word if word != "''" else "" for word in text.split()]


@pytest.mark.parametrize(("arguments", "rest", "ceiling"), TAKEN, ids=[row[0] for row in TAKEN])
def test_jobs_are_taken_out_of_the_arguments(arguments: str, rest: str, ceiling: int) -> None:
    """What is left says the same without its -j; the last -j counts."""
    assert make_command(["make", *words(arguments)], {}) == MakeCommand(("make", *words(rest)), ceiling)


@pytest.mark.parametrize("arguments", [*LEFT, *LEFT_UNTRIED], ids=lambda text: text[:30])
def test_what_can_not_be_paced_is_left_alone(arguments: str) -> None:
    """One job, no -j, or what make itself will complain about."""
    assert make_command(["make", *words(arguments)], {}) is None


@pytest.mark.parametrize(
    ("command", "is_make"),
    [
        ("make", True),
        ("gmake", True),
        ("/usr/bin/make", True),
        ("./make", True),
        ("make-4.4.1", True),
        ("/opt/bin/gmake-4.3", True),
        ("make-3.82", False),
        ("make-4.x", False),
        ("make-", False),
        ("cmake", False),
        ("make/", False),
        ("remake", False),
        ("bmake", False),
        ("make.sh", False),
        ("ninja", False),
        ("", False),
    ],
)
def test_make_is_known_by_its_name(command: str, is_make: bool) -> None:
    """A version that is named has to be one that knows --jobserver-auth."""
    assert (make_command([command, "-j8"], {}) is not None) == is_make


@pytest.mark.parametrize(
    "command", [(), ("env", "make", "-j8"), ("sh", "-c", "make -j8"), ("nice", "make", "-j8"), ("CC=x", "make", "-j8")]
)
def test_only_a_plain_make_is_one(command: tuple[str, ...]) -> None:
    """Behind another program it is not looked for."""
    assert make_command(command, {}) is None


@pytest.mark.parametrize(
    ("arguments", "environment", "ceiling"),
    [
        ("", {"MAKEFLAGS": "-j8"}, 8),
        ("", {"MAKEFLAGS": "j8"}, 8),
        ("", {"MAKEFLAGS": " -j8"}, 8),
        ("all", {"MAKEFLAGS": "kj 8 -s"}, 8),
        ("", {"MAKEFLAGS": "--jobs=8"}, 8),
        ("", {"MAKEFLAGS": "--jobs"}, ALL),
        ("", {"MAKEFLAGS": "-xj8"}, 8),
        ("", {"MAKEFLAGS": "--xyz -j8"}, 8),
        ("", {"MAKEFLAGS": "-j 9x"}, ALL),
        ("", {"MAKEFLAGS": "-k -- X=1 -j8"}, None),
        ("", {"MAKEFLAGS": "X=a\\ -j9"}, None),
        ("", {"MAKEFLAGS": "k all j8"}, None),
        ("", {"MAKEFLAGS": "-j0"}, None),
        ("-j5", {"MAKEFLAGS": "-j8"}, 5),
        ("-j1", {"MAKEFLAGS": "-j8"}, None),
        ("", {"MAKEFLAGS": "-j1", "GNUMAKEFLAGS": "-j8"}, None),
        ("", {"GNUMAKEFLAGS": "-j7"}, 7),
        ("", {"MAKEFLAGS": "-j6", "GNUMAKEFLAGS": "-j7"}, 6),
        ("-j8", {"MAKEFLAGS": " -j8 --jobserver-auth=3,4"}, None),
        ("-j8", {"MAKEFLAGS": "k -j8 --jobserver-auth=3,4 -- X=1"}, None),
        ("-j8", {"MAKEFLAGS": " -j8 --jobserver-auth=fifo:/tmp/GMfifo1"}, None),
        ("-j8", {"MAKEFLAGS": " --jobserver-auth=-2,-2"}, None),
        ("-j8", {"MAKEFLAGS": "--jobserver-fds=3,4 -j"}, None),
        ("-j8", {"GNUMAKEFLAGS": "--jobserver-auth=3,4"}, None),
        ("-j8 --jobserver-auth=3,4", {}, None),
        ("-j8 --jobserver-fds 3,4", {}, None),
        ("-j8", {"MAKEFLAGS": "-- X=--jobserver-auth=3,4"}, 8),
        ("-j8", {"MAKEFLAGS": "w"}, 8),
    ],
)
def test_the_environment_counts_as_it_does_for_make(
    arguments: str, environment: dict[str, str], ceiling: int | None
) -> None:
    """Its -j where the arguments have none; and inside a make with a jobserver that one is to be used."""
    command = make_command(["make", *words(arguments)], environment)
    assert (command and command.ceiling) == ceiling


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", " -j9 --jobserver-auth=70,71"),
        (" ", " -j9 --jobserver-auth=70,71"),
        ("k", "k -j9 --jobserver-auth=70,71"),
        ("-k", " -j9 --jobserver-auth=70,71 -k"),
        ("j8", " -j9 --jobserver-auth=70,71"),
        ("kj8", "k -j9 --jobserver-auth=70,71"),
        ("kj 8 -s", "k -j9 --jobserver-auth=70,71 -s"),
        (" -j8", " -j9 --jobserver-auth=70,71"),
        ("k -j8 -Oline -- X=1 Y=a\\ b", "k -j9 --jobserver-auth=70,71 -Oline -- X=1 Y=a\\ b"),
        ("X=1 -k -j3", " -j9 --jobserver-auth=70,71 X=1 -k"),
        ("--jobs 9 -k", " -j9 --jobserver-auth=70,71 -k"),
        ("-- X=-j4", " -j9 --jobserver-auth=70,71 -- X=-j4"),
        ("k\\", "k\\\\ -j9 --jobserver-auth=70,71"),
        ("kC dir", " -j9 --jobserver-auth=70,71 -kC dir"),
        ("l 4", " -j9 --jobserver-auth=70,71 -l 4"),
        ("kC", " -j9 --jobserver-auth=70,71 -kC"),
        ("-j0 k", " -j9 --jobserver-auth=70,71 k"),
    ],
)
def test_what_was_in_makeflags_stays_in_it(before: str, after: str) -> None:
    """Letters first, variables last, the old -j gone."""
    assert with_jobserver(before, 9, 70, 71) == after


def in_a_makefile_of(directory: Path) -> None:
    """One that says what it was told, in a recipe: only there MAKEFLAGS has its -j."""
    told = "$(info goals=[$(MAKECMDGOALS)] flags=[$(MAKEFLAGS)] X=[$(X)] Y=[$(Y)])"
    text = f"all:; {told}@:\n.DEFAULT:; {told}@:\n"
    for name in ("Makefile", "other-j9", "-j3"):
        (directory / name).write_text(text)


def told_by_make(directory: Path, arguments: list[str], makeflags: str, server: Jobserver | None = None) -> str:
    """What make says then, without what it always says of a jobserver; "" if it refuses."""
    environment = {"PATH": os.environ["PATH"], "MAKEFLAGS": makeflags}
    done = subprocess.run(
        arguments, cwd=directory, env=environment, capture_output=True, text=True, timeout=60,
        pass_fds=() if server is None else server.client_descriptors,
    )  # fmt: skip
    assert "warning: jobserver" not in done.stderr
    assert "resetting jobserver" not in done.stderr
    lines = re.findall("goals=.*", done.stdout)
    return re.sub(r" --(jobserver-auth|sync-mutex)=[^]\s]+", "", lines[0]) if lines else ""


@needs_make
@pytest.mark.parametrize("arguments", [row[0] for row in TAKEN if row[2] < 100], ids=str)
def test_make_is_told_the_same(tmp_path: Path, arguments: str) -> None:
    """The real one, with the -j in its arguments, and with our jobserver instead: the same N, flags, goals, variables."""
    in_a_makefile_of(tmp_path)
    before = ["make", *words(arguments)]
    command = make_command(before, {})
    assert command is not None
    server = Jobserver(command.ceiling)
    try:
        ours = told_by_make(tmp_path, list(command.arguments), server.makeflags(""), server)
    finally:
        server.close()
    theirs = told_by_make(tmp_path, before, "")
    assert ours
    # 4.3 puts -j and what else has a value in an order of its own; an unlimited -j has a number with us.
    assert sorted(ours.split()) == sorted(re.sub(r"-j(?=[ \]])", f"-j{command.ceiling}", theirs).split())


@needs_make
@pytest.mark.parametrize("arguments", LEFT, ids=str)
def test_make_paces_nothing_there(tmp_path: Path, arguments: str) -> None:
    """The real one refuses what is left alone, or runs one job at a time."""
    in_a_makefile_of(tmp_path)
    told = told_by_make(tmp_path, ["make", *words(arguments)], "")
    assert not re.search(r"flags=\[[^]]* -j(?!1\b)", told)


@needs_make
@pytest.mark.parametrize(
    "makeflags",
    ["", "k", "-k", "j8", "kj8", "kj 8 -s", " -j8", "k -j8 -Oline -- X=1 Y=a\\ b", "X=1 -k -j3", "--jobs 9 -k", "-- X=-j4", "-l 40 -j4", "s -l40 -j2", "kl 40 -j2"],
)  # fmt: skip
def test_make_reads_the_same_from_makeflags(tmp_path: Path, makeflags: str) -> None:
    """The real one: the flags and variables of before, and our ceiling, without a warning."""
    in_a_makefile_of(tmp_path)
    server = Jobserver(9)
    try:
        ours = told_by_make(tmp_path, ["make"], server.makeflags(makeflags), server)
    finally:
        server.close()
    theirs = told_by_make(tmp_path, ["make", "-j9"], makeflags)
    assert sorted(ours.split()) == sorted(theirs.split())
    assert "-j9" in ours


OPTION = st.sampled_from(
    ["-j", "-j4", "-j 4", "-kj", "-kj7", "--jobs", "--jobs=3", "--jobs 6", "-k", "-C .", "-f x", "-l", "-l 3", "-l2", "-O",
     "-Oline", "--debug", "all", "3", "X=1", "--", "-s", "-W y", "--dir x", "-I.", "-n", "-"]
)  # fmt: skip
TEXT = st.text(st.sampled_from("-jkslOC=0149 \\x\t.$+é"), max_size=12)


@given(st.lists(OPTION, max_size=8))
def test_the_jobs_are_gone_when_they_are_taken(options: list[str]) -> None:
    """What remains has no -j any more, in the order in which it was; and taking it twice is taking it once."""
    arguments = ["make", *words(" ".join(options))]
    command = make_command(arguments, {})
    if command is not None:
        assert make_command(command.arguments, {}) is None
        assert make_command(command.arguments, {"MAKEFLAGS": f"-j{command.ceiling}"}) == command
        left = iter(arguments)
        assert all(any(word in {old, old.partition("j")[0]} for old in left) for word in command.arguments)


@given(st.lists(TEXT, max_size=5), TEXT, TEXT)
@settings(max_examples=300)
def test_any_words_are_an_answer(arguments: list[str], makeflags: str, more: str) -> None:
    """Whatever is typed or exported: a command or None, and a ceiling above 1."""
    command = make_command(["make", *arguments], {"MAKEFLAGS": makeflags, "GNUMAKEFLAGS": more})
    assert command is None or (command.ceiling > 1 and len(command.arguments) <= len(arguments) + 1)


@given(TEXT)
@settings(max_examples=300)
def test_a_jobserver_is_put_in_once(makeflags: str) -> None:
    """To what it was put in, it is seen, with the ceiling; and what else is there stays when it is put in again."""
    once = with_jobserver(makeflags, 9, 70, 71)
    assert make_command(["make", "-j4"], {"MAKEFLAGS": once}) is None
    ours = " -j9 --jobserver-auth=70,71"
    assert once.count(ours) == 1
    assert make_command(["make"], {"MAKEFLAGS": once.replace(ours, " -j9", 1)}) == MakeCommand(("make",), 9)


def test_only_a_make_that_knows_the_option_gets_tokens(tmp_path: Path) -> None:
    """GNU make of this machine does; a script, another program, what is not there, and what may not be executed do not."""
    own = os.environ["PATH"]
    assert takes_tokens("make", own)
    assert takes_tokens(shutil.which("make") or "", "")
    for name, text, mode in (("make", "#!/bin/sh\nexec bmake\n", 0o755), ("gmake", "jobserver-auth", 0o644)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    # The first in the path counts, as for execvp(3).
    assert not takes_tokens("make", f"{tmp_path}:{own}")
    assert not takes_tokens("gmake", str(tmp_path))
    assert not takes_tokens("make", "/nowhere")
