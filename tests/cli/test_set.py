# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr set`: what can be meant, what a daemon is asked for, and what is said of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.bus.errors import DeniedError, FailedError, InvalidArgumentError, NotSupportedError
from slicemgr.bus.objects import NO_LIMIT
from slicemgr.cli import asking, polkit_agent, reading
from slicemgr.cli import set as set_verb
from slicemgr.cli.limit_settings import BY_KEY, LIMITS, Setting, SettingError, followed_by_high, settings_of
from slicemgr.policy.limits import high_below
from slicemgr.service.request_options import LIMITS as BUS_LIMITS
from tests.bus.fake_daemon import BUILD, KATE, KATE_UNIT, USER_ROOT, FakeDaemon, moment
from tests.cli.slicemgr_command import SLICEMGR
from tests.service.fake_cgroups import MIB, FakeCgroups

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slicemgr.bus.call import Call
    from tests.bus.private_bus import PrivateBus

GIB = 1 << 30


def read(*words: str) -> dict[str, int | None]:
    """On a machine of 16 GiB that can have 40000 tasks."""
    return {each.limit.key: each.value for each in settings_of(words, 16 * GIB, lambda: 40_000)}


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("memory_max=8G", "memory_max", 8 * GIB),
        ("MemoryMax=8G", "memory_max", 8 * GIB),
        ("memory_high=1.5GiB", "memory_high", 3 * GIB // 2),
        ("memory_high=25%", "memory_high", 4 * GIB),
        ("MemoryHigh=max", "memory_high", None),
        ("memory_max=infinity", "memory_max", None),
        ("memory_swap_max=0", "memory_swap_max", 0),
        ("MemorySwapMax=200%", "memory_swap_max", 32 * GIB),
        ("memory_low=10%", "memory_low", 16 * GIB // 10),
        ("memory_min=0", "memory_min", 0),
        ("tasks_max=100", "tasks_max", 100),
        ("TasksMax=25%", "tasks_max", 10_000),
        ("tasks_max=max", "tasks_max", None),
        ("cpu_weight=10000", "cpu_weight", 10_000),
        ("CPUWeight=1", "cpu_weight", 1),
        ("IOWeight=50", "io_weight", 50),
        ("memory_max=1048576", "memory_max", MIB),
    ],
)
def test_a_value(word: str, key: str, value: int | None) -> None:
    """By the configuration's names and systemd's, in the configuration's words."""
    assert read(word) == {key: value}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["memory_max"], "no value is given for memory_max; try memory_max=8G"),
        (["cpu_weight="], "no value is given for cpu_weight; try cpu_weight=100"),
        (["8G"], "'8G' is no KEY=VALUE; try memory_max=8G"),
        (["memory_maks=8G"], "'memory_maks' is no limit; try memory_max"),
        (["MemoryMaks=8G"], "'MemoryMaks' is no limit; try MemoryMax"),
        (["=8G"], f"'' is no limit; try {', '.join(BY_KEY)}"),
        (["victim=whole-job"], f"'victim' is no limit; try {', '.join(BY_KEY)}"),
        (
            ["memory_max=8Q"],
            "memory_max: '8Q' is no size; try bytes, a suffix of 1024s (600M, 1.5G), or a percentage (60%)",
        ),
        (
            ["memory_max=-1"],
            "memory_max: '-1' is no size; try bytes, a suffix of 1024s (600M, 1.5G), or a percentage (60%)",
        ),
        (["memory_max=8"], 'memory_max: 8 bytes is less than any command needs to start; try "8M"'),
        (
            ["memory_max=101%"],
            'memory_max: 101% is no limit; try a share between "1%" and "100%", or "max" for no limit',
        ),
        (["memory_high=auto"], "memory_high: 'auto' is for the configuration; try a size, as in memory_high=8G"),
        (
            ["tasks_max=0"],
            'tasks_max: \'0\' is no number of tasks; try a number from 1 on, a share such as "25%", or "max"',
        ),
        (["cpu_weight=0"], "cpu_weight: 0 is no weight from 1 to 10000; try 1"),
        (
            ["cpu_weight=max"],
            "cpu_weight: must be a whole number from 1 to 10000, and is a text; try 100, which is everybody's",
        ),
        (
            ["cpu_weight=1_0"],
            "cpu_weight: must be a whole number from 1 to 10000, and is a text; try 100, which is everybody's",
        ),
        (["memory_max=1G", "MemoryMax=2G"], "'memory_max' is given twice; try it once"),
        (["memory_max=" + "9" * 61], f"'{'9' * 60}…' is no value for memory_max; try a shorter one"),
    ],
    ids=lambda words: " ".join(words)[:40] if isinstance(words, list) else "",
)
def test_what_can_not_be_meant(words: list[str], line: str) -> None:
    """One line that ends in what to try."""
    with pytest.raises(SettingError) as error:
        read(*words)
    assert str(error.value) == line


@given(st.sampled_from([*BY_KEY, *(each.unit_property for each in LIMITS)]), st.text(max_size=20))
def test_any_value(key: str, text: str) -> None:
    """Is a number of 64 bits that the bus carries, or a line with a hint."""
    try:
        (value,) = read(f"{key}={text}").values()
    except SettingError as error:
        told = str(error)
    else:
        assert value is None or 0 <= value < NO_LIMIT
        return
    assert "; try " in told


def test_the_limits_are_those_of_the_bus() -> None:
    """Neither more nor fewer."""
    assert {each.unit_property for each in LIMITS} == set(BUS_LIMITS)


@pytest.mark.parametrize(
    ("given_now", "high", "maximum", "has_own_high", "followed"),
    [
        ({"memory_max": GIB}, high_below(2 * GIB), 2 * GIB, False, high_below(GIB)),
        ({"memory_max": None}, high_below(2 * GIB), 2 * GIB, True, None),
        ({"memory_max": GIB}, None, None, True, high_below(GIB)),
        ({"memory_max": GIB}, None, None, False, "not"),
        ({"memory_max": GIB}, GIB, 2 * GIB, True, "not"),
        ({"memory_max": GIB}, None, 2 * GIB, True, "not"),
        ({"memory_low": GIB}, high_below(2 * GIB), 2 * GIB, True, "not"),
    ],
)
def test_memory_high_goes_along(
    given_now: dict[str, int | None], high: int | None, maximum: int | None, has_own_high: bool, followed: Any
) -> None:
    """Where somebody else has not put it: else the kernel would be the first to know that the new limit is reached."""
    settings = [Setting(BY_KEY[key], value) for key, value in given_now.items()]
    told = followed_by_high(settings, high, maximum, has_own_high=has_own_high)
    extra = {each.limit.key: each.value for each in told[len(settings) :]}
    assert extra == ({} if followed == "not" else {"memory_high": followed})
    asked = [*settings, Setting(BY_KEY["memory_high"], 7 * MIB)]
    assert followed_by_high(asked, high, maximum, has_own_high=has_own_high) == tuple(asked)


class Desk:
    """A fake user's daemon, with the cgroups that it shows."""

    def __init__(self, bus: PrivateBus, tmp_path: Path) -> None:
        self.cgroups = FakeCgroups(tmp_path / "cgroup")
        self.daemon = FakeDaemon(bus)
        self.daemon.answers["SetLimits"] = lambda call: ()
        self.manager = reading.Manager(
            uid=1000,
            runtime_directory=str(tmp_path),
            state_directory=str(tmp_path / "state"),
            specs=(),
            root=USER_ROOT,
            mount=self.cgroups.mount,
            bus_address=bus.address,
        )
        for path, maximum in ((BUILD, 2048), (KATE, 1024)):
            directory = self.cgroups.add(path, high=maximum * 15 // 16 * MIB, max=maximum * MIB)
            for name, text in (
                ("memory.low", "0"),
                ("pids.max", "max"),
                ("cpu.weight", "100"),
                ("io.weight", "default 100\n8:0 5"),
            ):
                (directory / name).write_text(f"{text}\n")

    @property
    def asked(self) -> list[tuple[str, tuple[Any, ...]]]:
        """What the daemon was asked, and of which object."""
        return [(call.path.rpartition("/")[2], call.arguments) for call in self.daemon.calls]


@pytest.fixture
def desk(bus: PrivateBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk(bus, tmp_path)
    monkeypatch.setattr(reading, "chosen_manager", lambda options: made.manager)
    with made.daemon:
        yield made


@pytest.mark.parametrize(
    ("arguments", "asked", "told"),
    [
        (
            ["build", "memory_max=1G"],
            {"MemoryMax": GIB, "MemoryHigh": 960 * MIB},
            ["build.slice: memory_max 2.0G -> 1.0G", "build.slice: memory_high 1.9G -> 960.0M"],
        ),
        (
            ["kate", "MemoryMax=max", "memory_high=900M"],
            {"MemoryMax": NO_LIMIT, "MemoryHigh": 900 * MIB},
            ["job 'kate': memory_max 1.0G -> max", "job 'kate': memory_high 960.0M -> 900.0M"],
        ),
        (
            [KATE_UNIT, "cpu_weight=20", "io_weight=30", "tasks_max=5"],
            {"CPUWeight": 20, "IOWeight": 30, "TasksMax": 5},
            ["job 'kate': cpu_weight 100 -> 20", "job 'kate': io_weight 100 -> 30", "job 'kate': tasks_max max -> 5"],
        ),
        (["build.slice", "memory_low=5M"], {"MemoryLow": 5 * MIB}, ["build.slice: memory_low 0B -> 5.0M"]),
        (
            ["build", "memory_min=5M"],
            {"MemoryMin": 5 * MIB},
            ["build.slice: memory_min -> 5.0M, but its cgroup has no memory.min"],
        ),
        (
            ["app", "memory_max=5G"],
            {"MemoryMax": 5 * GIB},
            ["app.slice: memory_max -> 5.0G, as soon as something runs in it"],
        ),
    ],
    ids=lambda row: " ".join(row) if isinstance(row, list) and "=" in row[-1] else "",
)
def test_what_is_set(
    desk: Desk,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    asked: dict[str, int],
    told: list[str],
) -> None:
    """From what it was, to what it is."""
    assert set_verb.main(arguments) == 0
    ((_, (limits, options)),) = desk.asked
    assert (limits, options) == (asked, {})
    assert capsys.readouterr() == ("".join(f"{line}\n" for line in told), "")


REFUSED = [
    (["biuld", "memory_max=1G"], None, 2, "no slice or job 'biuld'; try 'build'"),
    (["zz\x1b[2J", "memory_max=1G"], None, 2, "no slice or job 'zz\\x1b[2J'; try 'slicemgr list'"),
    (["build", "memory_max=1Q"], None, 2,
     "memory_max: '1Q' is no size; try bytes, a suffix of 1024s (600M, 1.5G), or a percentage (60%)"),
    (["build", "cpu_weight=1"], InvalidArgumentError("'X' is above 'Y'; try 15/16 of it"), 2, "'X' is above 'Y'; try 15/16 of it"),
    (["build", "cpu_weight=1"], DeniedError("can't: polkit does not allow it; try as root"), 125,
     "can't: polkit does not allow it; try with sudo"),
    (["build", "cpu_weight=1"], DeniedError("can't: no; try the option `interactive`, or as root"), 125,
     "can't: no; try in a terminal, where you can be asked for a password, or with sudo"),
    (["build", "cpu_weight=1"], NotSupportedError("it is user 7's; try that user's session bus"), 125,
     "it is user 7's; try 'slicemgr set --user' as that user"),
    (["build", "cpu_weight=1"], FailedError("systemd says:\nno"), 125, "systemd says:\\nno; try 'slicemgr status'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "status", "line"), REFUSED)
def test_what_is_refused(
    desk: Desk,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    error: Exception | None,
    status: int,
    line: str,
) -> None:
    """One line, with what a person can type in place of what a program would call."""

    def refuse(call: Call) -> tuple[Any, ...]:
        assert error is not None
        raise error

    desk.daemon.answers["SetLimits"] = refuse
    assert set_verb.main(arguments) == status
    assert capsys.readouterr() == ("", f"slicemgr set: {line}\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "no SLICE|JOB given"),
        (["build"], "no KEY=VALUE given"),
        (["memory_max=8G"], "no SLICE|JOB given"),
        (["--frob", "build", "memory_max=8G"], "unrecognized arguments: --frob"),
        (["--json", "build", "memory_max=8G"], "unrecognized arguments: --json"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    """One line, and 2."""
    with pytest.raises(SystemExit) as caught:
        set_verb.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", f"slicemgr set: {line}; try 'slicemgr set --help'\n")


@pytest.mark.parametrize("at", [0, 1, 3])
def test_options_stand_before_or_behind(desk: Desk, at: int) -> None:
    """The slice, or its limits."""
    words = ["build", "cpu_weight=1", "io_weight=1"]
    words.insert(at, "--user")
    assert set_verb.main(words) == 0
    assert desk.asked == [("build_2eslice", ({"CPUWeight": 1, "IOWeight": 1}, {}))]


class TestPolkit:
    def test_a_person_at_a_terminal_may_be_asked(
        self, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """On the system bus, unless told not to."""
        agents: list[str] = []

        @contextlib.contextmanager
        def agent() -> Iterator[None]:
            agents.append("began")
            yield
            agents.append("ended")

        manager = reading.Manager(None, str(tmp_path), str(tmp_path), (), mount=str(tmp_path), bus_address=bus.address)
        monkeypatch.setattr(reading, "chosen_manager", lambda options: manager)
        monkeypatch.setattr(polkit_agent, "can_ask", lambda: True)
        monkeypatch.setattr(polkit_agent, "asking_on_terminal", agent)
        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["SetLimits"] = lambda call: ()
            assert set_verb.main(["build", "cpu_weight=1"]) == 0
            assert set_verb.main(["--no-ask-password", "build", "cpu_weight=1"]) == 0
            monkeypatch.setattr(polkit_agent, "can_ask", lambda: False)
            assert set_verb.main(["build", "cpu_weight=1"]) == 0
        assert [call.arguments[1] for call in daemon.calls] == [{"interactive": True}, {}, {}]
        assert agents == ["began", "ended"]

    def test_nobody_is_asked_on_a_session_bus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(polkit_agent, "can_ask", lambda: True)
        with asking.asking_person(on_system_bus=False) as interactive:
            assert not interactive

    def test_the_agent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It has said that it is ready before anybody is asked, and it has ended afterwards."""
        program = tmp_path / "pkttyagent"
        program.write_text(
            f"#!{sys.executable}\nimport os, signal, sys\n"
            f"signal.signal(signal.SIGTERM, lambda *_: (open({str(tmp_path / 'ended')!r}, 'w').close(), os._exit(0)))\n"
            f"open({str(tmp_path / 'began')!r}, 'w').write(' '.join([str(os.getppid()), *sys.argv[1:]]))\n"
            "os.close(int(sys.argv[2]))\nwhile True: signal.pause()\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        with polkit_agent.asking_on_terminal():
            parent, notify, number, fallback = (tmp_path / "began").read_text().split()
            assert (parent, notify, fallback) == (str(os.getpid()), "--notify-fd", "--fallback")
            assert number.isdigit()
            assert not (tmp_path / "ended").exists()
        assert (tmp_path / "ended").exists()

    @pytest.mark.parametrize("content", [None, "no program"])
    def test_no_agent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
        """Then polkit says no by itself."""
        if content is not None:
            (tmp_path / "pkttyagent").write_text(content)
            (tmp_path / "pkttyagent").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        with polkit_agent.asking_on_terminal():
            assert True


def run(address: str, *arguments: str) -> tuple[int, str, str]:
    """As a person does it, whose session bus this is."""
    done = subprocess.run(
        [*SLICEMGR, "set", *arguments],
        env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": address, "DBUS_SYSTEM_BUS_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_as_typed(bus: PrivateBus) -> None:
    """Against the user's daemon, and against the system's."""
    with FakeDaemon(bus) as daemon:
        daemon.answers["SetLimits"] = lambda call: ()
        for which in ("--user", "--system"):
            status, told, errors = run(bus.address, which, "build", "cpu_weight=20")
            assert (status, errors) == (0, "")
            assert told.startswith("build.slice: cpu_weight")
            assert " -> 20" in told
    assert [call.arguments for call in daemon.calls] == [({"CPUWeight": 20}, {})] * 2


def test_without_a_daemon(bus: PrivateBus) -> None:
    """One line that says how to start it."""
    assert run(bus.address, "--user", "build", "cpu_weight=20") == (
        125,
        "",
        "slicemgr set: there is no user daemon on the session bus; try 'systemctl --user start slicemgr'\n",
    )
    assert run(bus.address, "--system", "build", "cpu_weight=20") == (
        125,
        "",
        "slicemgr set: there is no system daemon on the system bus; try 'sudo systemctl start slicemgr'\n",
    )


def test_without_a_bus() -> None:
    status, told, errors = run("unix:path=/nowhere/bus", "--user", "build", "cpu_weight=20")
    assert (status, told) == (125, "")
    assert errors.startswith("slicemgr set: there is no session bus (")
    assert errors.endswith("); try from within your session, or --system\n")
    assert errors.count("\n") == 1


def test_without_glib(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What to install."""
    monkeypatch.setitem(sys.modules, "slicemgr.bus.control", None)
    assert set_verb.main(["build", "cpu_weight=20"]) == 125
    told = capsys.readouterr().err
    assert told.startswith("slicemgr set: Python can't speak D-Bus here (")
    assert told.endswith("); try installing python3-gi and python3-pydbus\n")


def test_a_daemon_that_does_not_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("slicemgr.bus.control.SETTING_SECONDS", 0.05)
    desk.daemon.answers["SetLimits"] = desk.daemon.stand_still
    assert set_verb.main(["build", "cpu_weight=20"]) == 125
    assert capsys.readouterr() == (
        "",
        "slicemgr set: the user daemon does not answer; try again, and 'systemctl --user status slicemgr' if it stays so\n",
    )
