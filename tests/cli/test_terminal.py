# SPDX-License-Identifier: LGPL-2.1-or-later
"""Job control on a real terminal with a real shell: ^C, ^Z, fg, bg, pipelines, scripts, the size of the window."""

import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from slicemgr.kernel import procfs
from tests.cli.slicemgr_command import EMBEDDED, SLICEMGR

RUN = shlex.join([*SLICEMGR, "run", *EMBEDDED, "--"])
PROMPT = r"ready> $"
CTRL_C, CTRL_D, CTRL_Z = "\x03", "\x04", "\x1a"


class Terminal:
    """A terminal with an interactive bash in it, and somebody who types.

    The commands `exec` what they wait in: dash vforks, and who is stopped between vfork and exec stops nobody else.
    """

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "--wait", "bash", "--norc", "--noprofile", "--noediting", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "PS1": "ready> ", "TERM": "dumb", "HISTFILE": ""},
        )
        os.close(slave)
        self.screen = ""
        self.expect(PROMPT)

    def type(self, keys: str) -> None:
        """What a person types; nothing that stood on the screen before counts any more."""
        self.screen = ""
        os.write(self._master, keys.encode())

    def enter(self, line: str) -> None:
        """Type a line."""
        self.type(line + "\n")

    def expect(self, pattern: str) -> re.Match[str]:
        """Read until the screen shows it."""
        while not (found := re.search(pattern, self.screen, re.MULTILINE)):
            readable, _, _ = select.select([self._master], [], [], 30)
            assert readable, f"{pattern!r} never came: {self.screen!r}"
            self.screen += os.read(self._master, 4096).decode(errors="replace").replace("\r", "")
        return found

    def resize(self, rows: int, columns: int) -> None:
        """Drag the corner of the window."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        """Hang up."""
        os.close(self._master)
        try:
            self._shell.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self._shell.pid, signal.SIGKILL)
            raise


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    yield opened
    opened.close()


def test_control_c_ends_the_command(terminal: Terminal) -> None:
    """By SIGINT, and the shell sees 130."""
    terminal.enter(f"{RUN} sh -c 'echo u''p; exec cat'")
    terminal.expect("^up")
    terminal.type(CTRL_C)
    terminal.expect("slicemgr: 'sh' ended by SIGINT")
    terminal.expect(PROMPT)
    terminal.enter("echo status=$?")
    terminal.expect("^status=130")


def test_control_z_and_fg(terminal: Terminal) -> None:
    """Stopped as a job of the shell, continued with the keyboard."""
    terminal.enter(f"{RUN} sh -c 'echo u''p; exec cat'")
    terminal.expect("^up")
    terminal.type(CTRL_Z)
    terminal.expect(r"^\[1\]\+ +Stopped +.* run ")
    terminal.expect(PROMPT)
    terminal.enter("fg")
    terminal.expect(" run --backend")
    terminal.enter("typed after f''g")
    terminal.expect("^typed after f''g\ntyped after f''g")
    terminal.type(CTRL_D)
    terminal.expect("slicemgr: 'sh' exited with 0")
    terminal.expect(PROMPT)


def test_in_the_background_it_may_not_read(terminal: Terminal) -> None:
    """`bg` lets it run; when it wants the keyboard it is stopped by SIGTTIN, and slicemgr with it."""
    terminal.enter(f"{RUN} sh -c 'echo u''p; read line; echo do''ne'")
    terminal.expect("^up")
    terminal.type(CTRL_Z)
    terminal.expect(PROMPT)
    terminal.enter("bg; wait; jobs")
    terminal.expect(r"^\[1\]\+ +Stopped")
    terminal.enter("fg")
    terminal.expect(" run --backend")
    terminal.type(CTRL_D)
    terminal.expect("^done")
    terminal.expect("slicemgr: 'sh' exited with 0")


def test_a_background_job_runs_to_its_end(terminal: Terminal) -> None:
    """Without the terminal, `&` from the start."""
    terminal.enter(f"{RUN} sh -c 'exit 3' &")
    terminal.expect("slicemgr: 'sh' exited with 3")
    terminal.enter("wait %1; echo status=$?")
    terminal.expect("^status=3")


def test_the_reader_of_a_pipeline_keeps_the_keyboard(terminal: Terminal) -> None:
    """`slicemgr run ... | less`: the command has a group of its own, and must not take the terminal with it."""
    terminal.enter(f"{RUN} sh -c 'echo u''p' 2>&1 | sh -c 'cat; read line </dev/tty; echo read $line'")
    terminal.expect("^up")
    terminal.expect("slicemgr: 'sh' exited with 0")
    terminal.enter("from the keyboard")
    terminal.expect("^read from the keyboard")
    terminal.expect(PROMPT)


@pytest.mark.parametrize("reads", [False, True], ids=["does not read", "reads"])
def test_control_c_ends_the_script_around_it(terminal: Terminal, reads: bool) -> None:
    """The script's shell hears ^C as well, and goes no further: also when the command has the terminal by now."""
    command = "exec cat" if reads else "exec sleep 1000"
    terminal.enter(f"sh -c \"{RUN} sh -c 'echo u''p; {command}'; echo went o''n\"")
    terminal.expect("^up")
    if reads:
        terminal.enter("typed")
        terminal.expect("^typed\ntyped")
    terminal.type(CTRL_C)
    terminal.expect("slicemgr: 'sh' ended by SIGINT")
    terminal.expect(PROMPT)
    assert not re.search("^went on", terminal.screen, re.MULTILINE)


def test_a_command_in_a_script_reads_the_keyboard(terminal: Terminal) -> None:
    """It gets the terminal when it asks for it."""
    terminal.enter(f"sh -c \"{RUN} sh -c 'echo u''p; read line; echo read $line'; read line; echo then $line\"")
    terminal.expect("^up")
    terminal.enter("one")
    terminal.expect("slicemgr: 'sh' exited with 0")
    terminal.enter("two")
    terminal.expect("^then")
    terminal.expect(PROMPT)


@pytest.mark.parametrize("start", ["{}", 'sh -c "{}; :"'], ids=["from the prompt", "from a script"])
def test_the_size_of_the_window(terminal: Terminal, start: str) -> None:
    """SIGWINCH reaches the command, with the terminal or without it."""
    command = f"{RUN} bash -c 'trap \\\"echo resiz''ed\\\" WINCH; echo u''p; while :; do read -t 1 line; done'"
    terminal.enter(start.format(command if start != "{}" else command.replace('\\"', '"')))
    terminal.expect("^up")
    terminal.resize(50, 132)
    terminal.expect("^resized")
    terminal.type(CTRL_C)
    terminal.expect(PROMPT)


def test_a_terminal_that_stops_background_writers(terminal: Terminal) -> None:
    """`stty tostop`: slicemgr writes its line from the background while the command has the terminal."""
    terminal.enter("stty tostop")
    terminal.expect(PROMPT)
    terminal.enter(f"{RUN} sh -c 'exit 4'")
    terminal.expect("slicemgr: 'sh' exited with 4")
    terminal.expect(PROMPT)


def test_suspend_in_an_inner_shell(terminal: Terminal) -> None:
    """SIGSTOP of whoever has the terminal: it comes back to the outer shell, and `fg` goes on."""
    terminal.enter(f"{RUN} sh -c 'kill -STOP $$; echo went o''n'")
    terminal.expect(r"^\[1\]\+ +Stopped")
    terminal.expect(PROMPT)
    terminal.enter("fg")
    terminal.expect("^went on")
    terminal.expect("slicemgr: 'sh' exited with 0")
    terminal.expect(PROMPT)


@pytest.mark.parametrize("reads", [False, True], ids=["does not read", "reads"])
def test_control_z_stops_the_script_around_it(terminal: Terminal, reads: bool) -> None:
    """Once, and the prompt is there; also when the command has the terminal by now."""
    command = "exec cat" if reads else "exec sleep 1000"
    terminal.enter(f"sh -c \"{RUN} sh -c 'echo p''id=\\$\\$; {command}'; :\"")
    pid = int(terminal.expect(r"^pid=(\d+)")[1])
    if reads:
        terminal.enter("typed")
        terminal.expect("^typed\ntyped")
    terminal.type(CTRL_Z)
    terminal.expect(r"^\[1\]\+ +Stopped")
    terminal.expect(PROMPT)
    while {procfs.read_stat(pid).state, procfs.read_stat(procfs.read_stat(pid).ppid).state} != {"T"}:
        os.sched_yield()  # The prompt came when the script had stopped: the others are about to.
    terminal.enter("fg")
    while procfs.read_stat(pid).state == "T":
        os.sched_yield()  # The shell gives the terminal first, and then says SIGCONT.
    terminal.type(CTRL_C)
    terminal.expect("slicemgr: 'sh' ended by SIGINT")
    terminal.expect(PROMPT)


def expect_a_shell_that_reads_on(terminal: Terminal) -> None:
    """Two lines: the first was waited for already, the second would be EIO."""
    for word in ("once", "twice"):
        terminal.enter(f"echo {word[0]}''{word[1:]}")
        terminal.expect(f"^{word}")
        terminal.expect(PROMPT)


def test_what_a_shell_has_taken_is_its_own(terminal: Terminal, tmp_path: Path) -> None:
    """slicemgr is stopped while its command has the terminal, and goes on in the background, to its end.

    Robbed of the terminal at its prompt, bash reads EIO, and exits.
    """
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    terminal.enter(f"{RUN} sh -c 'echo p''id=$PPID; read word <{fifo}; exit 3'")
    pid = int(terminal.expect(r"^pid=(\d+)")[1])
    os.kill(pid, signal.SIGSTOP)
    terminal.expect(r"^\[1\]\+ +Stopped")
    terminal.expect(PROMPT)
    terminal.enter("bg")
    terminal.expect(PROMPT)
    fifo.write_text("go\n")
    terminal.expect("slicemgr: 'sh' exited with 3")
    expect_a_shell_that_reads_on(terminal)


def test_what_a_shell_has_taken_from_a_script_is_its_own(terminal: Terminal, tmp_path: Path) -> None:
    """There it is not our parent that has the terminal, but the session's leader."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = f"echo p''id=\\$PPID; read line; echo read \\$line; read word <{fifo}; exit 3"
    terminal.enter(f"sh -c \"{RUN} sh -c '{command}'; echo script sa''w \\$?\"")
    pid = int(terminal.expect(r"^pid=(\d+)")[1])
    terminal.enter("typed")
    terminal.expect("^read typed")
    os.killpg(os.getpgid(pid), signal.SIGSTOP)
    terminal.expect(r"^\[1\]\+ +Stopped")
    terminal.expect(PROMPT)
    terminal.enter("bg")
    terminal.expect(PROMPT)
    fifo.write_text("go\n")
    terminal.expect("^script saw 3")
    expect_a_shell_that_reads_on(terminal)


STRANGE = """
import os, runpy, signal, sys
from slicemgr.kernel import procfs

read_stat, killpg = procfs.read_stat, os.killpg

def hidden(pid):
    stat = read_stat(pid)
    if stat.ppid == os.getpid() and stat.state == "T":
        raise procfs.UNSEEN[1](pid, "read")
    return stat

def refused(group, number):
    if number == signal.SIGHUP:
        raise PermissionError(1, "Operation not permitted")
    killpg(group, number)

procfs.read_stat, os.killpg = hidden, refused
runpy.run_path(sys.argv.pop(1))
"""
"""`slicemgr` whose commands are sudo's, on a /proc with hidepid: neither seen nor ours to hang up on."""


@pytest.fixture
def strange(tmp_path: Path) -> str:
    (tmp_path / "strange.py").write_text(STRANGE)
    return shlex.join([sys.executable, str(tmp_path / "strange.py"), SLICEMGR[-1], "run", *EMBEDDED, "--"])


def test_control_z_of_a_command_that_is_hidden(terminal: Terminal, strange: str) -> None:
    """waitpid says that it has stopped, and that is enough."""
    terminal.enter(f"{strange} sh -c 'echo u''p; exec cat'")
    terminal.expect("^up")
    terminal.type(CTRL_Z)
    terminal.expect(r"^\[1\]\+ +Stopped")
    terminal.expect(PROMPT)
    terminal.enter("fg")
    terminal.expect("strange.py")
    terminal.type(CTRL_D)
    terminal.expect("slicemgr: 'sh' exited with 0")
    terminal.expect(PROMPT)


def test_a_reader_that_cant_be_hung_up_on(terminal: Terminal, strange: str) -> None:
    """It is said, once, and the reader stays stopped: continued it would ask again, for ever."""
    terminal.enter(f"( {strange} sh -c 'echo p''id=$$; exec cat' </dev/tty & )")
    pid = int(terminal.expect(r"pid=(\d+)")[1])
    terminal.expect("slicemgr: can't pass SIGHUP on")
    assert procfs.read_stat(pid).state == "T"
    os.kill(pid, signal.SIGKILL)
    terminal.expect("slicemgr: 'sh' ended by SIGKILL")
    assert len(re.findall("SIGHUP", terminal.screen)) == 1


@pytest.mark.parametrize("before", ["", "trap '' TSTP; "], ids=["orphaned", "orphaned, ^Z ignored"])
def test_a_reader_that_nobody_can_continue(terminal: Terminal, before: str) -> None:
    """In an orphaned process group nobody says fg: the reader is hung up on, and slicemgr does not spin."""
    terminal.enter(f"{before}( {RUN} cat </dev/tty & )")
    terminal.expect("slicemgr: 'cat' ended by SIGHUP")
