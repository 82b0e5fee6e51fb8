# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr config`: what it shows can be read back, and what is wrong with a file is told line by line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slicemgr.cli import config
from slicemgr.config import ConfigError, files, key_text, schema
from tests.cli.slicemgr_command import Ended

EXAMPLES = Path(__file__).parents[2] / "examples/config"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a configuration, and the directory of its user."""
    monkeypatch.setattr(files, "SYSTEM_DIRECTORIES", (tmp_path / "etc", tmp_path / "usr"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for name in ("home/slicemgr", "etc", "usr"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path / "home/slicemgr"


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ended:
    """In this process: the directories of the machine are not our own there."""
    status = config.main(arguments)
    out, err = capsys.readouterr()
    return Ended(status, out, err)


def in_a_process(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    code = "import sys; from slicemgr import cli; sys.exit(cli.main(['config', *sys.argv[1:]]))"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, env={**os.environ, **environment})


def test_the_defaults(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line says that it is one."""
    shown = show(capsys, "--user")
    assert (shown.status, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[:6] == [
        "# No configuration file was found: these are the defaults.",
        "",
        "[slice.build]",
        'kind = "build"  # default',
        'memory_max = "auto"  # default',
        'tasks_max = "25%"  # default',
    ]
    assert 'memory_low = "10%"  # default' in lines
    assert all(line.endswith("# default") for line in lines if " = " in line and not line.endswith("["))
    assert max(map(len, lines)) <= 120


def test_the_origin_of_each_value(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File and line; where a list only adds to the default, both."""
    (home / "slicemgr.toml").write_text(
        '[slice.build]\nmemory_max = 6442450944\n[slice."app.slice"]\nprotect = ["emacs"]\n'
    )
    drop_in = home.parents[1] / "etc/slicemgr.toml.d"
    drop_in.mkdir()
    (drop_in / "10-agent.toml").write_text('[slice."my.agent"]\ngrace = 0.25\n')
    shown = show(capsys, "--user").stdout
    assert shown.startswith(
        "# Merged from these files, the later above the earlier:\n"
        f"#   {home}/slicemgr.toml\n#   {drop_in}/10-agent.toml\n\n[slice.build]\n"
    )
    assert f'\nmemory_max = "6G"  # {home}/slicemgr.toml:2\n' in shown
    assert '\n[slice."my.agent"]\nkind = "build"  # default\n' in shown
    assert f'\ngrace = "0.25s"  # {drop_in}/10-agent.toml:2\n' in shown
    assert f'"emacs",\n]  # default, and {home}/slicemgr.toml:4\n' in shown


def test_the_system_manager_has_no_user(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--system does not look into a home."""
    (home / "slicemgr.toml").write_text("[slice.build]\ncpu_weight = 7\n")
    assert "cpu_weight = 7  #" in show(capsys, "--user").stdout
    assert "cpu_weight = 50  # default" in show(capsys, "--system").stdout


@pytest.mark.parametrize(("euid", "weight"), [(0, 50), (1000, 7)])
def test_whose_without_an_option(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, euid: int, weight: int
) -> None:
    """The system's for root, one's own for everybody else."""
    (home / "slicemgr.toml").write_text("[slice.build]\ncpu_weight = 7\n")
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    assert f"cpu_weight = {weight}  #" in show(capsys).stdout


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("slice.build.memory_max", 'slice.build.memory_max = "auto"  # default\n'),
        ("machine.swap_free", 'machine.swap_free = "10%"  # default\n'),
        ("slice.build.io_weight", "# slice.build.io_weight is not set: systemd's own holds\n"),
        ("machine", '[machine]\nmemory_available = "5%"  # default\nswap_free = "10%"  # default\nsession_reserve = "auto"  # default\nvital_oom_score_adj = -500  # default\n'),
        ("pacing", "[pacing]\nenabled = true  # default\nnever_hold = []  # default\nborrow = 0  # default\n"),
        ("pacing.never_hold", "pacing.never_hold = []  # default\n"),
        ("notifications", "notifications.enabled = true  # default\n"),
    ],
)  # fmt: skip
def test_one_key(home: Path, capsys: pytest.CaptureFixture[str], key: str, shown: str) -> None:
    """A value with its whole key, a table with its header: both can be read back."""
    assert show(capsys, "--user", key).stdout == shown


@pytest.mark.parametrize(
    ("key", "written", "shown"),
    [
        ("memory_max", "1073741824", '"1G"'),
        ("memory_max", "1073741825", "1073741825"),
        ("memory_max", '"1536M"', '"1536M"'),
        ("memory_max", '"12.50 %"', '"12.5%"'),
        ("memory_max", '"infinity"', '"max"'),
        ("memory_swap_max", "0", "0"),
        ("tasks_max", "1024", "1024"),
        ("grace", "0", '"0s"'),
        ("grace", '"1min"', '"60s"'),
        ("grace", '"333ms"', '"0.333s"'),
        ("grace", '"1us"', "1e-06"),
        ("grace", "0.1234567", "0.1234567"),
        ("protect", "['a\"b']", '["a\\"b"]'),
    ],
)
def test_how_values_are_written(
    home: Path, capsys: pytest.CaptureFixture[str], key: str, written: str, shown: str
) -> None:
    """Short where that is exact, and never rounded."""
    (home / "slicemgr.toml").write_text(f"[slice.build]\n{key} = {written}\n")
    line = show(capsys, "--user", f"slice.build.{key}").stdout
    assert line == f"slice.build.{key} = {shown}  # {home}/slicemgr.toml:2\n"


def test_a_key_of_a_slice_with_a_dot(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As TOML quotes it, and without."""
    (home / "slicemgr.toml").write_text('[slice."my.agent"]\ncpu_weight = 7\n')
    expected = f'slice."my.agent".cpu_weight = 7  # {home}/slicemgr.toml:2\n'
    assert show(capsys, "--user", 'slice."my.agent".cpu_weight').stdout == expected
    assert show(capsys, "--user", "slice.my.agent.cpu_weight").stdout == expected


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["slice.biuld"], "'slice.biuld' is no key of the configuration; try slice.build"),
        (["slice.build.memory_mx"], "'slice.build.memory_mx' is no key of the configuration; try slice.build.memory_max"),
        (["\x1b[2J"], "'\\x1b[2J' is no key of the configuration; try slice.build"),
        ([""], "'' is no key of the configuration; try slice.build"),
        (["--check"], "argument --check: expected one argument; try 'slicemgr config --help'"),
        (["--check", "x", "slice"], "--check shows no KEY; try 'slicemgr config --help'"),
        (["--user", "--system"], "argument --system: not allowed with argument --user; try 'slicemgr config --help'"),
        (["--use"], "unrecognized arguments: --use; try 'slicemgr config --help'"),
        (["a", "b"], "unrecognized arguments: b; try 'slicemgr config --help'"),
    ],
)  # fmt: skip
def test_usage_errors(home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str) -> None:
    """One line, and 2."""
    try:
        status: Any = config.main(arguments)
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert (status, out, err) == (2, "", f"slicemgr config: {line}\n")


def test_a_broken_configuration_is_not_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every error of every file, and 1."""
    (home / "slicemgr.toml").write_text("[slice.build]\nMemoryMax = 1\ncpu_weight = 0\n")
    (home / "slicemgr.toml.d").mkdir()
    (home / "slicemgr.toml.d/a.toml").write_text("kind = build\n")
    shown = show(capsys, "--user")
    assert (shown.status, shown.stdout) == (1, "")
    assert shown.lines == [
        f'{home}/slicemgr.toml.d/a.toml:1:8: Invalid value; try quotes, as in kind = "build"',
        f"{home}/slicemgr.toml:2: slice.build.MemoryMax: no such key; try memory_max",
        f"{home}/slicemgr.toml:3: slice.build.cpu_weight: 0 is no weight from 1 to 10000; try 1",
    ]


@pytest.mark.parametrize(
    ("content", "status", "stdout", "stderr"),
    [
        ("", 0, "FILE: fine\n", ""),
        ("[slice.build]\nmemory_max = '4G'\n", 0, "FILE: fine\n", ""),
        ("a = 1\nb = 2\n", 1, "", "FILE:1: a: no such key; try one of machine, notifications, pacing, slice\nFILE:2: b: no such key; try one of machine, notifications, pacing, slice\n"),
        ("[slice.build\n", 1, "", "FILE:1:13: Expected ']' at the end of a table declaration; try quotes, as in kind = \"build\"\n"),
        (None, 1, "", "FILE: no such file; try another path\n"),
    ],
)  # fmt: skip
def test_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, status: int, stdout: str, stderr: str
) -> None:
    """FILE:LINE first, as compilers do."""
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_text(content)
    checked = show(capsys, "--check", str(path))
    assert checked == Ended(status, stdout.replace("FILE", str(path)), stderr.replace("FILE", str(path)))
    errors = [line.replace("FILE", str(path)) for line in stderr.splitlines()]
    in_json = show(capsys, "--check", str(path), "--json")
    assert (in_json.status, json.loads(in_json.stdout)) == (status, {"file": str(path), "errors": errors})


def test_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes in bytes, every key there is, null for what is not set."""
    (home / "slicemgr.toml").write_text(
        "[slice.build]\nmemory_max = '6G'\n[pacing]\nnever_hold = ['ctest']\nborrow = '256M'\n"
    )
    data = json.loads(show(capsys, "--user", "--json").stdout)
    assert data["slice"]["build"]["memory_max"] == {"value": 6 << 30, "file": f"{home}/slicemgr.toml", "line": 2}
    assert data["slice"]["build"]["io_weight"] == {"value": None, "file": None, "line": None}
    assert data["slice"]["app"]["grace"] == {"value": 5.0, "file": None, "line": None}
    assert data["slice"]["app"]["protect"]["value"][0] == "gnome-shell"
    assert data["machine"]["session_reserve"]["value"] == "auto"
    assert data["pacing"]["borrow"]["value"] == 256 << 20
    assert data["pacing"]["never_hold"] == {"value": ["ctest"], "file": f"{home}/slicemgr.toml", "line": 4}
    assert data["pacing"]["enabled"]["value"] is True
    assert {name: set(table) for name, table in data["slice"].items()} == {
        name: set(schema.SLICE_KEYS) for name in ("build", "app", "session")
    }
    one = json.loads(show(capsys, "--user", "--json", "slice.build.memory_max").stdout)
    assert one == {"slice": {"build": {"memory_max": data["slice"]["build"]["memory_max"]}}}


SIZES = st.integers(1 << 20, 1 << 62) | st.sampled_from(["60%", "12.5%", "max", "3T", "1.5G"])
TABLES = st.fixed_dictionaries({}, optional={
    "kind": st.sampled_from(["build", "app", "session"]), "memory_max": SIZES | st.just("auto"), "memory_swap_max": SIZES | st.just(0),
    "tasks_max": st.integers(1, 1 << 40) | st.sampled_from(["5%", "max"]), "cpu_weight": st.integers(1, 10_000),
    "io_weight": st.integers(1, 10_000), "victim": st.sampled_from(["highest-badness", "whole-job"]),
    "grace": st.floats(0, 90) | st.integers(0, 90) | st.sampled_from(["5s", "333ms", "1us"]),
    "protect": st.lists(st.text("abé\"\\*[]? \U0001f427", min_size=1, max_size=3), max_size=30),
})  # fmt: skip
CONTENTS = st.fixed_dictionaries({
    "slice": st.dictionaries(st.sampled_from(["build", "app.slice", "agent", "my.own", "a:b", "x" * 240]), TABLES),
    "machine": st.fixed_dictionaries({}, optional={"memory_available": st.sampled_from(["5%", 12345, "1G"]), "session_reserve": st.just("2G"), "vital_oom_score_adj": st.integers(-999, 0)}),
    "pacing": st.fixed_dictionaries({}, optional={"enabled": st.booleans(), "never_hold": st.lists(st.sampled_from(["ctest", "*_test", "a name of more than 15"])), "borrow": st.sampled_from([0, 12345, "512M", "12.5%"])}),
    "notifications": st.fixed_dictionaries({}, optional={"enabled": st.booleans()}),
})  # fmt: skip


def as_toml(content: dict[str, dict[str, Any]]) -> str:
    def value(each: Any) -> str:
        return json.dumps(each, ensure_ascii=False)  # For these values JSON is TOML.

    lines = [
        f"{key_text((table, name))} = {value(each)}\n"
        for table in ("machine", "pacing", "notifications")
        for name, each in content[table].items()
    ]
    for name, table in content["slice"].items():
        lines += [f"[{key_text(('slice', name))}]\n", *(f"{key} = {value(each)}\n" for key, each in table.items())]
    return "".join(lines)


@given(CONTENTS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_shown_can_be_read_back(
    home: Path, capsys: pytest.CaptureFixture[str], content: dict[str, dict[str, Any]]
) -> None:
    """The output as a file: fine, and the same configuration; and shown again it is the same but for the origins."""
    try:
        meant = schema.read(files.load_text(as_toml(content).encode(), "F"))
    except ConfigError as error:
        # The session's 10% above a memory_max that was drawn for it.
        assert all("is above memory_max" in line for line in error.lines), error.lines  # noqa: PT017
        return
    (home / "slicemgr.toml").write_text(as_toml(content))
    first = show(capsys, "--user").stdout
    (home / "slicemgr.toml").write_text(first)
    assert show(capsys, "--check", str(home / "slicemgr.toml")).status == 0
    assert schema.read(files.load_file(home / "slicemgr.toml")) == meant
    again = show(capsys, "--user").stdout
    assert re.sub("  # .*", "", again).partition("\n\n")[2] == re.sub("  # .*", "", first).partition("\n\n")[2]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_through_a_pipe(example: Path) -> None:
    """Shown by one process, checked by another: `slicemgr config | slicemgr config --check -`."""
    shown = in_a_process("--user", XDG_CONFIG_HOME=str(example.parent / "nowhere"))
    assert shown.returncode == 0
    for text in (shown.stdout, example.read_bytes()):
        checked = in_a_process("--check", "-", stdin=text)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"-: fine\n", b"")


def test_names_that_the_locale_lacks(tmp_path: Path) -> None:
    """A path in other letters is shown escaped, and is no traceback."""
    home = tmp_path / "ホーム/slicemgr"
    home.mkdir(parents=True)
    (home / "slicemgr.toml").write_text("[slice.build]\ncpu_weight = 7\n")
    shown = in_a_process("--user", XDG_CONFIG_HOME=str(home.parent), PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert rb"\u30db\u30fc\u30e0/slicemgr/slicemgr.toml:2" in shown.stdout


def test_a_reader_who_leaves(tmp_path: Path) -> None:
    """`slicemgr config | head -1` ends quietly."""
    code = "from slicemgr import cli; raise SystemExit(cli.main(['config']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk() -> None:
    """What is not written is said."""
    code = "from slicemgr import cli; raise SystemExit(cli.main(['config']))"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 125
    assert done.stderr == b"slicemgr config: can't write: No space left on device; try another place\n"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status of a broken file is told."""
    with pytest.raises(SystemExit) as end:
        config.main(["--help"])
    assert end.value.code == 0
    assert "1 if a file can't be read or can't be meant" in capsys.readouterr().out
