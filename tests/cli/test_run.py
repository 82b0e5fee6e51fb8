# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr run` with real processes: what the command sees, who dies, and what is told of it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.proctree import ProcessTree
from slicemgr.service.guardian import NAME as KEEPER
from tests.cli.slicemgr_command import EMBEDDED, SLICEMGR, UNPACED, hog, report, run, run_unpaced
from tests.conftest import Hog

MIB = 1 << 20
ROOT = Path(__file__).parent.parent.parent


class Job:
    """slicemgr in the background; its command says `ready` when it is."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*SLICEMGR, "run", *EMBEDDED, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid = self.process.pid
        assert self.line() == b"ready\n"

    def line(self) -> bytes:
        """The next line of the command."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> tuple[int, bytes, bytes]:
        """Close its input; its status, what it said since, and stderr."""
        out, told = self.process.communicate(timeout=60)
        return self.process.returncode, out, told


@pytest.fixture
def job() -> Iterator[Callable[..., Job]]:
    """Start jobs; none is left after the test."""
    jobs: list[Job] = []

    def start(*arguments: str) -> Job:
        jobs.append(Job(*arguments))
        return jobs[-1]

    yield start
    for each in jobs:
        each.process.kill()
        each.process.wait()
        for stream in (each.process.stdin, each.process.stdout, each.process.stderr):
            if stream is not None:
                stream.close()


Jobs: TypeAlias = Callable[..., Job]


def members_of(job: Job) -> dict[str, int]:
    """The living processes of a job, by name; slicemgr's own child beside them is none of it."""
    processes = procfs.snapshot(ProcessTree(job.pid).members())
    return {each.name: each.pid for each in processes if each.has_memory and each.name != KEEPER}


class TestTheCommandSees:
    """What it would see without slicemgr."""

    def test_input_output_and_arguments(self) -> None:
        """Standard input, output, error and every byte of the arguments."""
        ended = run("sh", "-c", 'cat; printf "%s" "$1" >&2', "sh", "a b\n*", stdin="typed")
        assert (ended.status, ended.stdout) == (0, "typed")
        assert ended.stderr.startswith("a b\n*slicemgr: ")

    def test_environment_and_directory(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The very same."""
        monkeypatch.setenv("SLICEMGR_TEST", "\udcff")
        monkeypatch.chdir(tmp_path)
        ended = run("sh", "-c", 'printf "%s|%s" "$SLICEMGR_TEST" "$PWD"')
        assert ended.stdout == f"\udcff|{tmp_path}"

    def test_no_descriptor_but_the_three(self) -> None:
        """Nothing of ours leaks into it; 3 is ls' own."""
        assert run("ls", "/proc/self/fd").stdout.split() == ["0", "1", "2", "3"]

    def test_no_signal_ignored_or_blocked(self) -> None:
        """The interpreter ignores SIGPIPE and SIGXFSZ, slicemgr SIGTTOU: no command may inherit that.

        Beside a bare interpreter, since Python 3.13 starts its children with two signals of the C library ignored.
        """
        look = ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]
        bare = [sys.executable, "-c", f"import os; os.execvp('grep', {look})"]
        blocked, ignored = (int(mask, 16) for mask in run(*look).stdout.split()[1::2])
        without = subprocess.run(bare, capture_output=True, text=True).stdout.split()[1::2]
        of_python = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
        assert blocked == int(without[0], 16) == 0
        assert ignored == int(without[1], 16) & ~of_python

    def test_ignored_signals_stay_ignored(self) -> None:
        """nohup is of use."""
        ended = run("true")
        done = subprocess.run(
            ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *SLICEMGR, "run", *EMBEDDED, "grep", "SigIgn", "/proc/self/status"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert ended.status == done.returncode == 0
        assert int(done.stdout.split()[1], 16) == 1 << (signal.SIGHUP - 1)

    def test_a_process_group_of_its_own(self) -> None:
        """And its leadership."""
        pid, group = run("sh", "-c", "cut -d' ' -f1,5 /proc/self/stat; :", limits=["--name", "x"]).stdout.split()
        assert pid != group
        own = run("sh", "-c", 'echo $$; read -r line < /proc/self/stat; echo "${line##*)}"').stdout.split()
        assert own[0] == own[3]

    def test_its_priority_or_one_a_little_lower(self) -> None:
        """As it was where slicemgr may raise its own, else 5 steps nicer (tests/vm tries both for certain)."""
        before = os.getpriority(os.PRIO_PROCESS, 0)
        assert int(run("nice").stdout) in {before, before + 5}

    def test_a_script_without_interpreter_line(self, tmp_path: Path) -> None:
        """The shell's, as execvp(3) has it."""
        script = tmp_path / "script"
        script.write_text('echo "ran with $1"\n')
        script.chmod(0o755)
        assert run(str(script), "x").stdout == "ran with x\n"


class TestTheSearch:
    """The command is found on $PATH as execvp(3) finds it."""

    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Two folders: `both` can't be executed in the first, `denied` nowhere, `plain` has no '#!'."""
        for folder, name, mode in (
            ("a", "both", 0o644),
            ("a", "denied", 0o644),
            ("b", "both", 0o755),
            ("b", "plain", 0o755),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            script = tmp_path / folder / name
            script.write_text(("#!/bin/sh\n" if name != "plain" else "") + f'echo "{name} in {folder} with $1"\n')
            script.chmod(mode)
        monkeypatch.setenv("PATH", f"{tmp_path}/none:{tmp_path}/a/both/x:{tmp_path}/a:{tmp_path}/b:/usr/bin:/bin")
        return tmp_path

    @pytest.mark.parametrize(("name", "said"), [("both", "both in b with x\n"), ("plain", "plain in b with x\n")])
    def test_found(self, path: Path, name: str, said: str) -> None:
        """The first that can be executed; the shell's if it has no interpreter line."""
        assert run(name, "x").stdout == said

    @pytest.mark.parametrize(
        ("name", "status", "told"), [("denied", 126, "Permission denied"), ("none", 127, "not found")]
    )
    def test_not_found(self, path: Path, name: str, status: int, told: str) -> None:
        """What was found and can't be executed is another thing than what was not found."""
        ended = run(name)
        assert ended.status == status
        assert told in ended.stderr

    def test_an_empty_element_is_the_current_directory(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """environ(7)."""
        monkeypatch.setenv("PATH", "/usr/bin::/bin")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.chdir(path / "b")
        assert run("both").stdout == "both in b with \n"

    def test_no_path_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The system's own places."""
        monkeypatch.delenv("PATH")
        assert run("true").status == 0


class TestExitStatus:
    """The command's own."""

    @pytest.mark.parametrize(
        "number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1, signal.SIGPIPE]
    )
    def test_dies_by_the_same_signal(self, number: signal.Signals) -> None:
        """A shell, make or CI has to see it."""
        ended = run("sh", "-c", f"kill -{number.name.removeprefix('SIG')} $$")
        assert ended.status == -number
        assert f"'sh' ended by {number.name} after " in ended.stderr

    @pytest.mark.parametrize("status", [0, 1, 2, 125, 126, 127, 255])
    def test_passes_on_any_status(self, status: int) -> None:
        """Even those that we use ourselves."""
        assert run("sh", "-c", f"exit {status}").status == status

    def test_does_not_wait_for_who_outlives_the_command(self, tmp_path: Path) -> None:
        """As without slicemgr; but it is said who is guarded no longer."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        ended = run(
            "sh", "-c", f"setsid cat {fifo} >/dev/null 2>&1 & echo $!", limits=["--json", str(tmp_path / "json")]
        )
        pid = int(ended.stdout)
        assert re.search(rf"still running, and no longer guarded: '(cat|setsid|sh)' \(pid {pid}\)", ended.lines[-1])
        assert [each["pid"] for each in report(tmp_path / "json")["left_running"]] == [pid]
        fifo.write_text("")


class TestKilling:
    """Who dies, and what is told."""

    def test_the_biggest_of_three(self, tmp_path: Path) -> None:
        """One line with who, pid, what it held, why and who was next; the others finish; JSON says the same."""
        file = tmp_path / "report.json"
        script = " & ".join(
            " ".join([*hog("--start", f"{size}M", "--hold", "4", "--comm", f"cc{size}")]) for size in (40, 60, 90)
        )
        ended = run_unpaced("sh", "-c", f"{script} & wait", limits=["--max", "190M", "--json", str(file)])
        assert ended.status == 0
        (line,) = [each for each in ended.lines if "killed 'cc" in each and "pid" in each]
        told = re.match(
            r"slicemgr: killed 'cc90' \(pid (\d+)\), which held ([\d.]+)M: the job held ([\d.]+)M, [\d.]+[KM] above --max 190\.0M; "
            r"if that is not enough, next is 'cc60' \(pid \d+\) with [\d.]+M",
            line,
        )
        assert told, line
        assert ended.lines[-1].startswith("slicemgr: 'sh' exited with 0 after ")
        assert re.search(
            r"; killed 'cc90'; to keep all, try fewer steps at once or a higher limit; peak [\d.]+M, [\d.]+[KM] above --max 190\.0M$",
            ended.lines[-1],
        )
        (kill,) = report(file)["kills"]
        assert (kill["pid"], kill["comm"], kill["outcome"]) == (int(told[1]), "cc90", "exited")
        assert kill["held_bytes"] / MIB == pytest.approx(float(told[2]), abs=0.1)
        assert kill["usage_bytes"] / MIB == pytest.approx(float(told[3]), abs=0.1)
        assert kill["usage_after_bytes"] < kill["limit_bytes"] == 190 * MIB < kill["usage_bytes"]
        assert [each["comm"] for each in kill["runners_up"]][:2] == ["cc60", "cc40"]
        assert report(file)["exit"] == {"status": 0}
        assert report(file)["schema"] == "slicemgr.run/1"

    def test_nobody_outside_the_tree(self, hog: Callable[..., Hog]) -> None:
        """A bystander that holds ten times as much lives on."""
        bystander = hog("--start", "300M")
        ended = run_unpaced(*_growing("60M"), limits=["--max", "30M"])
        assert ended.status == -signal.SIGKILL
        assert procfs.identity_of(bystander.pid)
        assert bystander.let_go() == 0

    def test_the_only_process_is_told_what_to_try(self) -> None:
        """It was the whole job; the line ends in a limit that would do."""
        ended = run_unpaced(*_growing("60M", "--comm", "big"), limits=["--max", "30M"])
        assert re.search(
            r"killed 'big' .*: the job held .*; it was the whole job: try --max \d+\.0M or more", ended.lines[0]
        )

    def test_a_daemonised_hog_is_a_member(self, tmp_path: Path) -> None:
        """Double-forked, in a session of its own, adopted by slicemgr: and killed. The command waits for its end."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        demon = _growing("80M", "--daemonise", "--comm", "demon")
        ended = run_unpaced("sh", "-c", '"$@" >"$0" & cat "$0"', str(fifo), *demon, limits=["--max", "40M"])
        assert re.search(r"killed 'demon' \(pid", ended.stderr)
        assert ended.status == 0

    @pytest.mark.parametrize(
        ("name", "shown", "data"),
        [
            ("foo) Z", "foo) Z", "foo) Z"),
            ("a\\nb", "a\\nb", "a\nb"),
            ("\\xff\\x1b[2J", "\\xff\\x1b[2J", "\\xff\x1b[2J"),
        ],
    )
    def test_hostile_names(self, name: str, shown: str, data: str, tmp_path: Path) -> None:
        """One line, nothing that draws, and valid JSON that has the name as it is, but for bytes that are no text."""
        file = tmp_path / "report.json"
        ended = run_unpaced(*_growing("60M", "--comm", name), limits=["--max", "30M", "--json", str(file)])
        assert f"slicemgr: killed '{shown}' (pid " in ended.lines[0]
        assert len(ended.lines) == 2
        assert report(file)["kills"][0]["comm"] == data

    def test_children_from_before_are_no_members(self) -> None:
        """A shell that execs slicemgr leaves it its background jobs as children: they are not the build's."""
        script = 'sleep 1000 >/dev/null 2>&1 & echo $!; exec "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *SLICEMGR, "run", *UNPACED, "--", "true"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        sleeper = int(done.stdout)
        assert procfs.read_stat(sleeper).state != "Z"
        os.kill(sleeper, signal.SIGKILL)
        assert "still running" not in done.stderr

    def test_orphans_of_children_from_before_are_no_members(self, tmp_path: Path) -> None:
        """A background job of the shell ends, and what it had started is adopted by slicemgr: still not the build's."""
        os.mkfifo(tmp_path / "go")
        bystander = " ".join(hog("--start", "60M", "--hold", "60", "--comm", "bystander"))
        (tmp_path / "stranger").write_text(f"{bystander} >/dev/null 2>&1 & echo $! >pid; cat go >/dev/null")
        adopted = """echo >go; until [ "$(ps -o ppid= -p "$(cat pid)" | tr -d ' ')" = $PPID ]; do :; done; sleep 1"""
        (tmp_path / "build").write_text(adopted)
        script = 'sh stranger & while ! [ -s pid ]; do :; done; exec "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", *SLICEMGR, "run", *UNPACED, "--max", "30M", "--", "sh", "build"],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)  # It is there to be killed: nobody has done so.
        assert "bystander" not in done.stderr
        assert done.returncode == 0

    def test_who_ignores_sigterm_dies(self) -> None:
        """There is no asking at a hard limit."""
        assert run_unpaced(*_growing("60M", "--ignore", "SIGTERM"), limits=["--max", "30M"]).status == -signal.SIGKILL

    def test_a_fork_shared_tree_within_its_limit_lives(self) -> None:
        """Twelve children of a 30 MB parent: 400 MB by RSS, 45 in truth."""
        ended = run_unpaced(*hog("--start", "30M", "--fork-share", "12", "--hold", "0.5"), limits=["--max", "150M"])
        assert ended.status == 0
        assert "; nothing killed; " in ended.lines[-1]

    def test_page_cache_is_no_reason(self, tmp_path: Path) -> None:
        """A mapped file twice the size of the limit can be dropped by the kernel."""
        ended = run_unpaced(*hog("--file", "80M", str(tmp_path / "data"), "--hold", "0.3"), limits=["--max", "40M"])
        assert ended.status == 0

    def test_a_warning_above_high(self, tmp_path: Path) -> None:
        """Said once, with what this backend can't do."""
        file = tmp_path / "report.json"
        ended = run_unpaced(
            *hog("--start", "60M", "--hold", "0.3"), limits=["--high", "30M", "--max", "200M", "--json", str(file)]
        )
        assert ended.status == 0
        (line,) = [each for each in ended.lines if "--high" in each]
        assert re.search(
            r"the job holds [\d.]+M, [\d.]+[KM] above --high 30\.0M; without a cgroup it can't be slowed down", line
        )
        assert report(file)["high_episodes"] == 1

    def test_victims_of_make(self, tmp_path: Path) -> None:
        """Its steps die, make and the shells do not; make tells its own story and its status."""
        steps = "\n".join(f"s{at}:\n\t@{' '.join(_growing('80M', '--rate', '100M'))}\n" for at in range(4))
        (tmp_path / "Makefile").write_text(f"all: s0 s1 s2 s3\n{steps}")
        file = tmp_path / "report.json"
        ended = run_unpaced("make", "-k", "-j4", "-C", str(tmp_path), limits=["--max", "200M", "--json", str(file)])
        assert ended.status == 2
        assert {each["comm"] for each in report(file)["kills"]} == {Path(sys.executable).name}
        assert ended.stderr.count("Killed") == len(report(file)["kills"])
        assert report(file)["peak_bytes"] > 200 * MIB

    def test_a_full_pipe_does_not_hold_up_the_guard(self) -> None:
        """Nobody reads stderr: the victim dies all the same, and the line comes when there is room."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        filled = 0
        while True:
            try:
                filled += os.write(writer, b"x" * 4096)
            except BlockingIOError:
                break
        os.set_blocking(writer, True)
        command = ["sh", "-c", '"$@" 2>/dev/null; echo $?', "sh", *_growing("60M")]
        process = subprocess.Popen(
            [*SLICEMGR, "run", *UNPACED, "--max", "30M", "--", *command], stdout=subprocess.PIPE, stderr=writer
        )
        os.close(writer)
        assert process.stdout is not None
        assert process.stdout.readline() == b"137\n"
        with os.fdopen(reader, "rb") as lines:
            told = lines.read()[filled:]
        assert told.startswith(b"slicemgr: killed ")
        assert process.wait() == 0
        process.stdout.close()

    def test_a_closed_stderr_is_no_reason_to_stop(self) -> None:
        """Nobody to tell: the command runs on."""
        done = subprocess.run(
            ["sh", "-c", '"$@" 2>&-', "sh", *SLICEMGR, "run", *EMBEDDED, "sh", "-c", "exit 5"], timeout=60
        )
        assert done.returncode == 5


class TestSignals:
    """What is sent to slicemgr is meant for the build."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
    def test_the_whole_group_ends(self, job: Jobs, number: signal.Signals) -> None:
        """The command and its children, each by that signal; slicemgr dies by it as well."""
        build = job("--", "sh", "-c", "exec 3<&0; cat <&3 & echo ready; exec cat")
        group = next(os.getpgid(pid) for name, pid in members_of(build).items() if name in {"sh", "cat"})
        build.process.send_signal(number)
        build.process.wait(timeout=60)  # Before its input ends, which would end it as well.
        status, _, told = build.end()
        assert status == -number
        assert f"ended by {number.name}".encode() in told
        while any(stat.pgrp == group and stat.state != "Z" for stat in procfs.processes().values()):
            os.sched_yield()  # Its last children are on their way out.

    def test_a_handled_signal_is_the_commands_business(self, job: Jobs) -> None:
        """It cleans up and exits with its own status."""
        build = job("--", "sh", "-c", 'exec 3<&0; trap "echo cleaned; exit 9" TERM; cat <&3 & echo ready; wait')
        build.process.terminate()
        build.process.wait(timeout=60)
        assert build.end()[:2] == (9, b"cleaned\n")

    def test_sigusr1_goes_to_the_command_alone(self, job: Jobs) -> None:
        """Its children would die of it."""
        build = job(
            "--", "sh", "-c", 'exec 3<&0; trap "echo got it" USR1; cat <&3 & echo ready; wait; wait $!; exit $?'
        )
        build.process.send_signal(signal.SIGUSR1)
        assert build.line() == b"got it\n"
        assert build.end()[0] == 0

    def test_a_stopped_command_does_not_stop_the_watcher(self, job: Jobs) -> None:
        """SIGSTOP without a terminal is somebody's own decision: the others are still to be watched."""
        build = job("--", "sh", "-c", "echo ready; kill -STOP $$; echo went on")
        pid = members_of(build)["sh"]
        while procfs.read_stat(pid).state != "T":
            os.sched_yield()
        assert procfs.read_stat(build.pid).state != "T"
        os.kill(pid, signal.SIGCONT)
        assert build.line() == b"went on\n"
        assert build.end()[0] == 0

    def test_a_command_that_left_its_group_hears_of_it(self, job: Jobs) -> None:
        """Its own group is empty then: the signal goes to its pid."""
        script = (
            "import os,signal\n"
            "child = os.fork()\n"
            "if child == 0: os.setpgid(0, 0); signal.pause()\n"
            "while os.getpgid(child) != child: pass\n"
            "signal.signal(signal.SIGTERM, lambda *_: (os.kill(child, 9), os._exit(7)))\n"
            "os.setpgid(0, child)\n"
            "print('ready', flush=True)\n"
            "while True: signal.pause()\n"
        )
        build = job("--", sys.executable, "-c", script)
        build.process.terminate()
        assert build.process.wait(timeout=60) == 7

    def test_orphans_are_collected(self, job: Jobs) -> None:
        """slicemgr is their parent now: a build of a day must not fill the process table with zombies."""
        build = job("--", "sh", "-c", 'for i in 1 2 3 4 5; do (sh -c "exit 0" &) ; done; echo ready; read line')
        while len(ProcessTree(build.pid).members()) > 2:  # The shell, and slicemgr's own child.
            os.sched_yield()
        assert build.end()[0] == 1  # of `read`, at the end of its input

    def test_a_killed_slicemgr_leaves_the_command_running(self, job: Jobs, tmp_path: Path) -> None:
        """Nothing stopped, nothing frozen: it goes on, unguarded."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        build = job("--", "sh", "-c", f"echo ready; cat {fifo}; echo went on")
        build.process.kill()
        build.process.wait()
        fifo.write_text("")
        assert build.line() == b"went on\n"


def _growing(size: str, *options: str) -> list[str]:
    return hog("--grow", size, "--rate", "300M", "--hold", "5", *options)
