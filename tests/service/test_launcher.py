# SPDX-License-Identifier: LGPL-2.1-or-later
"""A killed step is run again, with real compilers and build tools, and with stand-ins that kill themselves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from slicemgr.build.launcher import Launcher
from tests.service.launched_job import AGAIN, KILLED_ONCE, SYSTEM, WHY, Gate, Job, above, finished

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    if made.launcher is not None:
        made.launcher.close()


@pytest.fixture(params=["/bin/sh", "/bin/bash --posix", "/bin/bash"])
def any_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    """/bin/sh is dash here, and bash elsewhere."""
    made = Job(tmp_path, shell=request.param)
    yield made
    made.open().close()


# A killed step, with a real make and g++.


def test_make_never_hears_of_it(any_shell: Job) -> None:
    """cc1plus is killed, g++ fails, the shim gives the command again: make ends with 0, and one line says so."""
    gate = Gate(any_shell.folder)
    build = any_shell.start("make")
    ancestors = gate.kill(build, any_shell.open())
    pid, end = gate.compiler(build)
    assert any_shell.open().is_again(above(pid))
    assert len(set(above(pid)) & set(ancestors)) >= 2, "make and the shim are the same"
    os.write(end, b"// nothing\n")
    os.close(end)
    done = finished(build)
    assert done.returncode == 0, done.stderr
    assert f"{AGAIN}g++ -c x.cc{WHY}\n" in done.stderr
    assert done.stderr.count(AGAIN) == 1
    assert "make: ***" not in done.stderr
    assert (any_shell.folder / "x.o").exists()
    assert any_shell.marks("again") == []
    assert not any_shell.open().is_again(ancestors)


def test_who_was_killed_by_somebody_else_is_not_run_again(job: Job) -> None:
    """Without a mark the failure is make's."""
    gate = Gate(job.folder)
    build = job.start("make")
    gate.kill(build, None)
    done = finished(build)
    assert done.returncode == 2
    assert AGAIN not in done.stderr
    assert "make: *** [Makefile:2: x.o] Error 1" in done.stderr
    assert job.marks("again") == []


@pytest.mark.parametrize(("retries", "kills", "status"), [(1, 2, 2), (2, 2, 0), (2, 3, 2), (0, 1, 2)])
def test_not_for_ever(job: Job, retries: int, kills: int, status: int) -> None:
    """A step that is killed each time fails as it would have, and leaves no marks of the shim's."""
    gate = Gate(job.folder)
    build = job.start("make", SLICEMGR_RETRIES=str(retries))
    for _ in range(kills):
        ancestors = gate.kill(build, job.open())
    if not status:
        gate.let_go(build)
    done = finished(build)
    assert done.returncode == status, done.stderr
    assert done.stderr.count(AGAIN) == min(kills, retries)
    if status:
        assert "Error 1" in done.stderr
    assert job.marks("again") == []
    assert str(ancestors[1]) not in job.marks("killed")  # g++, the shim, make


def test_a_step_that_was_stopped_on_the_way(job: Job) -> None:
    """The pacer stops and continues what is below the shim: no end, and no reason to run it again."""
    gate = Gate(job.folder)
    build = job.start("make")
    gate.kill(build, job.open())
    pid, end = gate.compiler(build)
    driver = above(pid)[0]
    for each in (pid, driver):
        psutil.Process(each).suspend()
    os.write(end, b"// nothing\n")
    os.close(end)
    shim = psutil.Process(above(pid)[1])
    assert shim.status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
    for each in (driver, pid):
        psutil.Process(each).resume()
    done = finished(build)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(AGAIN) == 1


# What was done to it, and how it ends.


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM"])
def test_who_is_told_to_end_ends_by_that_signal(any_shell: Job, name: str) -> None:
    """^C and `kill` reach the group; even what was marked is not run again then, and the shim ends last."""
    number = signal.Signals[f"SIG{name}"]
    gate = Gate(any_shell.folder)
    build = any_shell.start(f"{any_shell.bin}/g++", "-c", "x.cc")
    pid, end = gate.compiler(build)
    any_shell.open().mark_killed(above(pid))
    os.killpg(build.pid, number)
    os.close(end)
    done = finished(build)
    # bash can't end by SIGQUIT, which it has always ignored.
    assert done.returncode == -number or ("bash" in any_shell.shell and done.returncode == 128 + number == 131)
    assert AGAIN not in done.stderr
    assert any_shell.marks("again") == []


def test_what_was_ignored_stays_ignored(job: Job) -> None:
    """As nohup leaves it: neither the shim nor its compiler ends by SIGHUP."""
    job.tool("gcc", '#!/bin/sh\nkill -HUP $PPID\nkill -HUP $$\necho "still here"\n')
    done = job.run("sh", "-c", 'trap "" HUP; gcc; exit $?')
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "")


STATUSES: list[tuple[str, int]] = [
    ("exit 0", 0),
    ("exit 1", 1),
    ("exit 4", 4),
    ("exit 101", 101),
    ("exit 126", 126),
    ("exit 127", 127),
    ("exit 128", 128),
    ("exit 145", 145),
    ("exit 147", 147),  # 128 and SIGSTOP: not to be taken for one.
    ("exit 148", 148),
    ("exit 255", 255),
    ("kill -9 $$", -9),
    ("kill -11 $$", -11),
    ("kill -6 $$", -6),
    ("kill -15 $$", -15),
    ("kill -2 $$", -2),
    ("kill -13 $$", -13),
]


@pytest.mark.parametrize(("end", "status"), STATUSES)
def test_the_end_is_the_programs_own(any_shell: Job, end: str, status: int) -> None:
    """Its status, or the signal that ended it; and the shell says nothing on its own account."""
    any_shell.tool("gcc", f"#!/bin/sh\n{end}\n")
    done = any_shell.run("env", "gcc", "-c", "x.c")
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_a_driver_that_is_killed_itself_is_run_again(any_shell: Job) -> None:
    """ld and meinproc5 have nobody below them: they end by SIGKILL."""
    any_shell.tool("meinproc5", KILLED_ONCE)
    done = any_shell.run("meinproc5", "--cache", "index.cache.bz2", "index.docbook")
    assert (done.returncode, any_shell.runs()) == (0, 2)
    assert done.stderr == f"{AGAIN}meinproc5 --cache index.cache.bz2 index.docbook{WHY}\n"


def test_a_mark_of_somebody_before_is_not_ours(job: Job) -> None:
    """Pids come again: a mark that was there before the compiler started counts for nothing."""
    job.tool("gcc", "#!/bin/sh\necho run >>$COUNT\nexit 3\n")
    # The shell is the shim a moment later: an exec keeps the pid.
    done = job.run("sh", "-c", ': >"$SLICEMGR_JOB/killed/$$"; exec gcc -c x.c')
    assert (done.returncode, job.runs(), job.marks("killed")) == (3, 1, [])


def test_a_success_is_a_success(job: Job) -> None:
    """A mark that came too late, for a child that nobody needed, say."""
    job.tool("gcc", "#!/bin/sh\necho run >>$COUNT\n: >$SLICEMGR_JOB/killed/$PPID\n")
    assert (job.run("gcc", "-c", "x.c").returncode, job.runs()) == (0, 1)


# What may be given twice.


ONCE: list[tuple[str, ...]] = [
    ("gcc", "-x", "c", "-"),
    ("gcc", "-c", "/dev/stdin"),
    ("gcc", "-S", "x.c", "-o", "-"),
    ("gcc", "-S", "x.c", "-o", "/dev/stdout"),
    ("gcc", "-c", "/dev/fd/63"),
    ("gcc", "-c", "/proc/self/fd/3"),
    ("gcc", "-c", "a fifo"),
    ("gcc", "-E", "x.c"),
    ("gcc", "-M", "x.c"),
    ("gcc", "-MM", "x.c"),
    ("nvcc", "-run", "x.cu"),
    ("nvcc", "--run", "x.cu"),
    ("meinproc5", "--stdout", "x.docbook"),
    ("rcc", "x.qrc"),
    ("xsltproc", "x.xsl", "x.xml"),
    ("slicemgr-launch", "rustc", "-"),
    ("slicemgr-launch", "rustc", "x.rs", "--emit=asm=-"),
    ("slicemgr-launch", "rustc", "--print", "cfg"),
]

TWICE: list[tuple[str, ...]] = [
    ("gcc", "-c", "x.c"),
    ("gcc", "-c", "-pipe", "-MD", "-MF", "x.d", "-MMD", "x.c", "-o", "x.o"),
    ("g++", "a.o", "b.o", "-o", "a-b"),
    ("gcc", "-I-", "-c", "x.c"),
    ("gcc-99", "-c", "x.c"),
    ("aarch64-none-elf-g++-12.3", "-c", "x.c"),
    ("x86_64-conda-linux-gnu-cc", "-c", "x.c"),
    ("clang++-19", "-c", "x.c"),
    ("ld.gold", "-r", "a.o"),
    ("rcc", "x.qrc", "-o", "x.cpp"),
    ("xsltproc", "--output", "x.html", "x.xsl", "x.xml"),
    ("ccache", "gcc", "-c", "x.c"),
    ("slicemgr-launch", "rustc", "x.rs", "--crate-name", "x"),
    ("slicemgr-launch", "/ANY/c++", "-c", "x.cc"),
]


def _give(job: Job, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    name = arguments[1 if arguments[0] == "slicemgr-launch" else 0]
    job.tool(name.rpartition("/")[2], KILLED_ONCE)
    os.mkfifo(job.folder / "a fifo")
    command = [each.replace("/ANY", str(job.tools)) for each in arguments]
    if command[0] == "slicemgr-launch":
        command[0] = job.environment()["SLICEMGR_LAUNCHER"]
    return job.run(*command)


@pytest.mark.parametrize("arguments", ONCE, ids=" ".join)
def test_what_has_been_read_or_told_cannot_be_given_again(job: Job, arguments: tuple[str, ...]) -> None:
    """Standard input, a fifo: gone. Standard output: make, or a pipe, has half of it."""
    done = _give(job, arguments)
    assert (done.returncode, job.runs(), done.stderr) == (-signal.SIGKILL, 1, "")


@pytest.mark.parametrize("arguments", TWICE, ids=" ".join)
def test_what_writes_its_output_anew_is_given_again(job: Job, arguments: tuple[str, ...]) -> None:
    """From given files to given files."""
    done = _give(job, arguments)
    assert (done.returncode, job.runs()) == (0, 2), done.stderr
    assert done.stderr.startswith(AGAIN)


NOT_OURS = ["ar", "ranlib", "strip", "objcopy", "as", "cpp", "gcc-ar-12", "gcc-nm", "clang-tidy", "clang-format", "ldd", "ld.so",
            "make", "ninja", "cargo", "rustc", "javac", "python3", "sh", "install", "c++filt", "g++-mapper-server"]  # fmt: skip


def test_whoever_else_is_left_alone(job: Job) -> None:
    """What changes files in place, what runs others, what is too small to matter."""
    for name in NOT_OURS:
        job.tool(name, "#!/bin/sh\n")
    assert not set(os.listdir(job.bin)) & set(NOT_OURS)


def test_only_what_is_there_is_shown(job: Job) -> None:
    """`command -v clang` finds one if there is one: neither a directory nor a text is."""
    (job.tools / "clang-77").mkdir()
    (job.tools / "clang-78").write_text("no program")
    (job.tools / "clang-79").symlink_to("nowhere")
    job.tool("clang-80", "#!/bin/sh\n")
    found = set(os.listdir(job.bin))
    assert {name for name in found if name.startswith("clang-7") or name == "clang-80"} == {"clang-80"}
    for name in found:
        assert shutil.which(name, path=f"{job.tools}:{SYSTEM}")


def test_a_person_may_leave_some_out(tmp_path: Path) -> None:
    """With all of their versions and targets."""
    job = Job(tmp_path, excluded=["gcc", "ld", "rustc", "cmake"])
    job.tool("arm-gcc-9", "#!/bin/sh\n")
    job.tool("arm-g++-9", "#!/bin/sh\n")
    found = set(os.listdir(job.bin))
    assert not found & {"gcc", "arm-gcc-9", "ld", "cmake"}
    assert "arm-g++-9" in found
    assert not {"RUSTC_WRAPPER", "SLICEMGR_CMAKE_LINKER"} & job.environment().keys()
    job.open().close()


# Who is found, and what he gets.


def test_the_next_one_in_the_path(job: Job) -> None:
    """Ours, then whatever directory is behind it: empty ones mean the current one, spaces mean nothing."""
    job.tool("gcc", '#!/bin/sh\necho "tools: $PATH"\n')
    (job.folder / "gcc").write_text('#!/bin/sh\necho "here: $PATH"\n')
    (job.folder / "gcc").chmod(0o755)
    before = job.bin
    for path, told in [
        (f"{before}:{job.tools}:{SYSTEM}", f"tools: {job.tools}:{SYSTEM}"),
        (f"{before}::{SYSTEM}", f"here: :{SYSTEM}"),
        (f"{before}:{SYSTEM}::", None),
        (f"/nowhere:{before}:{job.tools}:{before}::{SYSTEM}:", f"here: /nowhere:{job.tools}::{SYSTEM}:"),
        (f"{before}:.:{job.tools}", f"here: .:{job.tools}"),
        (f"{before}", "tools: "),
    ]:
        done = job.run("/bin/sh", "-c", "gcc -dumpversion", PATH=path)
        assert done.returncode == 0, done.stderr
        assert told is None or done.stdout == f"{told}\n", path
    # A build's own compiler, put before ours.
    own = job.folder / "own"
    own.mkdir()
    shutil.copy(job.folder / "gcc", own / "gcc")
    assert job.run("sh", "-c", 'PATH="$PWD/own:$PATH"; gcc').stdout.startswith(f"here: {own}:{before}:")


def test_nobody_is_found(any_shell: Job) -> None:
    """The shell's own words, and 127; in a job and outside."""
    any_shell.tool("icx", "#!/bin/sh\n")
    shim = f"{any_shell.bin}/icx"
    (any_shell.tools / "icx").unlink()
    for done in (any_shell.run(shim, "-c"), any_shell.outside(shim, "-c"), any_shell.run("sh", "-c", "icx -c")):
        assert done.returncode == 127
        assert "icx: not found" in done.stderr


def test_no_circle(job: Job) -> None:
    """Links to the shim in other places of $PATH, two jobs one in the other, a wrapper that starts its own name."""
    job.tool("gcc", "#!/bin/sh\necho run >>$COUNT\n")
    links = job.folder / "links"
    links.mkdir()
    (links / "gcc").symlink_to(f"{job.bin}/gcc")
    path = f"{job.bin}:{links}:{job.bin}:{job.tools}:{SYSTEM}"
    assert job.run(f"{links}/gcc", PATH=path).returncode == 0
    assert job.run("gcc", PATH=path).returncode == 0
    assert job.outside(f"{links}/gcc", COUNT=str(job.count)).returncode == 0
    inner = Launcher(str(job.folder / "inner"), job.environment()["PATH"], shims=str(job.folder / "others"))
    done = job.run("gcc", **inner.environment(job.environment()))
    assert done.returncode == 0
    inner.close()
    wrapping = job.folder / "wrapping"
    wrapping.mkdir()
    (wrapping / "gcc").write_text('#!/bin/sh\necho wrapped; exec gcc "$@"\n')
    (wrapping / "gcc").chmod(0o755)
    job.count.unlink()
    done = job.run("sh", "-c", 'PATH="$PWD/wrapping:$PATH"; exec env PATH="${PATH#*:}" wrapping/gcc')
    assert (done.returncode, done.stdout, job.runs()) == (0, "wrapped\n", 1)


def test_a_job_in_a_job_has_marks_of_its_own(job: Job) -> None:
    """Its links come in the place of the outer ones, not before them."""
    outer = job.environment()
    inner = Launcher(str(job.folder / "inner"), outer["PATH"], shims=str(job.shims))
    told = inner.environment(outer)
    assert told["PATH"].split(":").count(job.bin) == 1
    assert told["SLICEMGR_JOB"] == str(job.folder / "inner")
    assert told["SLICEMGR_STEP"] == ""
    inner.close()


def test_everything_else_is_as_without_us(any_shell: Job) -> None:
    """Arguments to the byte, variables of any name, standard input, open descriptors."""
    report = "import json, os, sys; json.dump([sys.argv[1:], dict(os.environ), sys.stdin.read(), sorted(map(int, os.listdir('/proc/self/fd')))], sys.stdout)"
    any_shell.tool("gcc", f'#!/bin/sh\nexec {sys.executable} -I -S -c "{report}" "$@"\n')
    arguments = ["", "a b", "*", "$HOME", "`x`", "'", '"', "\\n", "line\nline", "é", "-n", "--", "slicemgr_name=1"]
    names = ["name", "real", "path", "rest", "status", "signal", "IFS", "line", "x"]
    kept, writing = os.pipe()
    answers = []
    for program in (f"{any_shell.tools}/gcc", f"{any_shell.bin}/gcc"):
        environment = any_shell.environment(**dict.fromkeys(names, "theirs"))
        done = subprocess.run(
            [program, *arguments],
            cwd=any_shell.folder,
            env=environment,
            input="stdin\n",
            capture_output=True,
            text=True,
            pass_fds=[kept, writing],
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        answers.append(json.loads(done.stdout))
    os.close(kept)
    os.close(writing)
    plain, ours = answers
    changed = {key for key in plain[1].keys() | ours[1].keys() if plain[1].get(key) != ours[1].get(key)}
    # PWD and SHLVL are what any shell in between leaves; make's `sh -c` does, too.
    assert changed <= {"PATH", "SLICEMGR_STEP", "PWD", "OLDPWD", "SHLVL", "_"}
    assert ours[1]["PATH"] == f"{any_shell.tools}:{SYSTEM}"
    assert (ours[0], ours[2], ours[3]) == (arguments, "stdin\n", plain[3])


OPEN = "import os; open(os.environ['COUNT'], 'w').write(repr([n for n in range(64) if os.path.exists(f'/proc/self/fd/{n}')])); os._exit(5)"


@pytest.mark.parametrize("redirected", ["9</dev/null", "9>&2", "2>&-", "2>&- 9>&1", "0<&- 1>&-", "3</dev/null 8>&1"])
def test_descriptors_stay_where_they_are(any_shell: Job, redirected: str) -> None:
    """Nine may be a jobserver's, and standard error may be closed (where bash reads its script through 2, any script)."""
    if "bash" in any_shell.shell:
        redirected = redirected.replace("2>&-", "2>/dev/null")
    any_shell.tool("gcc", f'#!/bin/sh\nexec {sys.executable} -I -S -c "{OPEN}"\n')
    seen = []
    for program in (f"{any_shell.tools}/gcc", f"{any_shell.bin}/gcc"):
        done = any_shell.run("sh", "-c", f'"$1" {redirected}', "sh", program)
        assert done.returncode == 5
        seen.append(any_shell.count.read_text())
    assert seen[0] == seen[1]


def test_a_line_is_nothing_that_a_terminal_obeys(job: Job) -> None:
    """And no longer than a person reads."""
    job.tool("gcc", KILLED_ONCE)
    assert job.run("gcc", "-DX=\x1b[2J", "-c", "x.c").stderr == f"{AGAIN}gcc{WHY}\n"
    os.unlink(f"{job.count}.killed")
    (line,) = job.run("gcc", *["-Dabcdefgh"] * 1000).stderr.splitlines()
    assert len(line) < 400
    assert line.endswith(WHY)


def test_a_step_in_a_step_is_run_again_as_a_whole(job: Job) -> None:
    """rustc starts cc by a path that somebody kept, and both are marked: one of them repeats it, not each."""
    job.tool("gcc", KILLED_ONCE.replace(': >"$SLI', ': >"$SLICEMGR_JOB/killed/$OUTER"\n: >"$SLI'))
    job.tool("g++", f'#!/bin/sh\necho outer >>$COUNT\nOUTER=$PPID "{job.shims}"/*/bin/gcc -c x.c\n')
    done = job.run("g++", "x.cc")
    assert done.returncode == 0, done.stderr
    assert job.count.read_text().split() == ["outer", "run", "outer", "run"]
