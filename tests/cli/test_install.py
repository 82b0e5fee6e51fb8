# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr install` into a home of its own, and out again; no service manager is asked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

import pytest

from slicemgr import __version__
from slicemgr.cli import VERBS
from slicemgr.cli import install as install_verb
from slicemgr.cli.installed_files import Record
from slicemgr.cli.run_options import BACKENDS
from tests.cli.slicemgr_command import SLICEMGR, Ended

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]
COMPLETIONS = ROOT / "slicemgr/completions"

USER_FILES = {
    ".local/share/systemd/user/slicemgr.service",
    ".local/share/systemd/user/slicemgr-session.service",
    ".local/share/systemd/user/build.slice",
    ".local/share/systemd/user/session.slice.d/10-slicemgr.conf",
    ".local/share/systemd/user/app.slice.d/10-slicemgr.conf",
    ".local/share/dbus-1/services/org.slicemgr1.service",
    ".local/share/dbus-1/interfaces/org.slicemgr1.xml",
    ".local/share/slicemgr/slicemgr-session.desktop",
    ".local/share/bash-completion/completions/slicemgr",
    ".local/share/zsh/site-functions/_slicemgr",
    ".local/share/fish/vendor_completions.d/slicemgr.fish",
}
SYSTEM_FILES = {
    "usr/local/lib/systemd/system/slicemgr.service",
    "usr/local/lib/systemd/system/build.slice",
    "usr/local/lib/systemd/system/user.slice.d/10-slicemgr.conf",
    "usr/local/lib/systemd/system/user-.slice.d/10-slicemgr.conf",
    "usr/local/lib/systemd/system/user@.service.d/10-slicemgr.conf",
    "usr/local/lib/systemd/user/slicemgr-session.service",
    "usr/share/dbus-1/system.d/org.slicemgr1.conf",
    "usr/share/polkit-1/actions/org.slicemgr1.policy",
    "usr/local/share/dbus-1/system-services/org.slicemgr1.service",
    "usr/local/share/dbus-1/interfaces/org.slicemgr1.xml",
    "usr/local/share/slicemgr/slicemgr-session.sh",
    "etc/xdg/autostart/slicemgr-session.desktop",
    "usr/local/share/bash-completion/completions/slicemgr",
    "usr/local/share/zsh/site-functions/_slicemgr",
    "usr/local/share/fish/vendor_completions.d/slicemgr.fish",
}
SERVICE = ".local/share/systemd/user/slicemgr.service"
RECORD = ".local/state/slicemgr/installed.json"


def install(
    home: Path | None,
    *arguments: str,
    command: list[str] = SLICEMGR,
    settings: Mapping[str, str] = MappingProxyType({}),
    stdout: int | IO[bytes] = subprocess.PIPE,
) -> Ended:
    """Run it with this HOME, and without a service manager or a bus to be found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "DBUS_", "HOME"))}
    environment |= {"XDG_RUNTIME_DIR": "/nonexistent", **settings}
    if home is not None:
        environment["HOME"] = str(home)
    done = subprocess.run(
        [*command, "install", *arguments],
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    return Ended(done.returncode, done.stdout or "", done.stderr)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def first_words(told: Ended) -> list[str]:
    return [line.split()[0] for line in told.stdout.splitlines() if line.startswith(("wrote", "updated", "kept", "left", "removed", "would"))]  # fmt: skip


def test_in_and_out(tmp_path: Path) -> None:
    """Every file is told, a second time changes nothing, and afterwards nothing is left, no empty folder either."""
    told = install(tmp_path, "--user")
    assert told.status == 0, told.stderr
    assert files_below(tmp_path) == USER_FILES | {RECORD}
    for file in USER_FILES:
        assert f"wrote {tmp_path}/{file}\n" in told.stdout
    assert told.stdout.endswith("\nnow try: systemctl --user enable --now slicemgr\n")
    before = {file: (tmp_path / file).read_bytes() for file in files_below(tmp_path)}
    told = install(tmp_path, "--user")
    assert first_words(told) == ["kept"] * len(USER_FILES)
    assert before == {file: (tmp_path / file).read_bytes() for file in files_below(tmp_path)}
    told = install(tmp_path, "--user", "--uninstall")
    assert told.status == 0, told.stderr
    assert first_words(told) == ["removed"] * len(USER_FILES)
    assert list(tmp_path.iterdir()) == []
    told = install(tmp_path, "--user", "--uninstall")
    assert (told.status, told.stderr) == (0, "")
    assert re.fullmatch(r"nothing is installed for --user, as far as '.*/installed.json' knows\n", told.stdout)


def test_the_system_in_a_staging_tree(tmp_path: Path) -> None:
    """Below --destdir, whose path is in no file; the umask is not in the modes."""
    done = subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", *SLICEMGR, "install", "--system", "--destdir", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "\nfor users who are logged in, MemoryLow= and IOWeight= hold in full from the next login on\n" in done.stdout
    )
    assert files_below(tmp_path) == SYSTEM_FILES | {"var/lib/slicemgr/installed.json"}
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path
        if path.is_file():
            assert str(tmp_path) not in path.read_text()
    assert install(None, "--system", "--destdir", str(tmp_path), "--uninstall").status == 0
    assert list(tmp_path.iterdir()) == []


def test_the_folders_of_xdg(tmp_path: Path) -> None:
    """Where the variables say; a relative one is ignored."""
    settings = {"XDG_DATA_HOME": str(tmp_path / "data"), "XDG_STATE_HOME": "state"}
    assert install(tmp_path, "--user", settings=settings).status == 0
    assert (tmp_path / "data/systemd/user/slicemgr.service").exists()
    assert (tmp_path / RECORD).exists()
    assert install(tmp_path, "--user", "--uninstall", settings=settings).status == 0
    assert files_below(tmp_path) == set()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """In either direction, and says as much as the real one."""
    told = install(tmp_path, "--user", "--dry-run")
    assert first_words(told) == ["would"] * len(USER_FILES)
    assert list(tmp_path.iterdir()) == []
    install(tmp_path, "--user")
    told = install(tmp_path, "--user", "--uninstall", "--dry-run")
    assert first_words(told) == ["would"] * len(USER_FILES)
    assert files_below(tmp_path) == USER_FILES | {RECORD}


@pytest.mark.parametrize("kind", ["file", "mask", "folder"])
def test_what_is_not_ours_is_not_touched(tmp_path: Path, kind: str) -> None:
    """One line, and not a single file is written."""
    theirs = tmp_path / SERVICE
    theirs.parent.mkdir(parents=True)
    if kind == "file":
        theirs.write_text("[Service]\n")
    elif kind == "mask":
        theirs.symlink_to("/dev/null")
    else:
        theirs.mkdir()
    told = install(tmp_path, "--user")
    assert told.status == 125
    assert (
        told.stderr
        == f"slicemgr install: {theirs} is there, and not slicemgr's; try 'mv {theirs} {theirs}.old', then again\n"
    )
    assert files_below(tmp_path) <= {SERVICE}


def test_a_file_of_the_same_content_is_not_adopted(tmp_path: Path) -> None:
    """Who has copied build.slice by hand keeps it when slicemgr goes."""
    theirs = tmp_path / ".local/share/systemd/user/build.slice"
    theirs.parent.mkdir(parents=True)
    shutil.copy(ROOT / "units/user/build.slice", theirs)
    assert f"kept {theirs}: up to date\n" in install(tmp_path, "--user").stdout
    assert install(tmp_path, "--user", "--uninstall").status == 0
    assert files_below(tmp_path) == {theirs.relative_to(tmp_path).as_posix()}


def test_what_a_person_has_changed_stays(tmp_path: Path) -> None:
    """Through an update and through --uninstall, and both say so; afterwards it is no longer slicemgr's."""
    install(tmp_path, "--user")
    changed = tmp_path / SERVICE
    changed.write_text(changed.read_text() + "# mine\n")
    left = f"left {changed}: changed since it was installed, now yours to edit or remove\n"
    assert left in install(tmp_path, "--user").stdout
    told = install(tmp_path, "--user", "--uninstall")
    assert left in told.stdout
    assert files_below(tmp_path) == {SERVICE}
    assert changed.read_text().endswith("# mine\n")
    assert install(tmp_path, "--user").status == 125


def test_an_update(tmp_path: Path) -> None:
    """What an older slicemgr wrote is replaced, what it alone had is removed, what was deleted comes back."""
    install(tmp_path, "--user")
    record = json.loads((tmp_path / RECORD).read_text())
    service, obsolete = tmp_path / SERVICE, tmp_path / ".local/share/systemd/user/old.slice"
    for file, text in ((service, "# of an older one\n"), (obsolete, "# no longer\n")):
        file.write_text(text)
        record["files"].setdefault(str(file), []).append(hashlib.sha256(text.encode()).hexdigest())
    (tmp_path / RECORD).write_text(json.dumps(record))
    (tmp_path / ".local/share/systemd/user/build.slice").unlink()
    told = install(tmp_path, "--user")
    assert f"updated {service}\n" in told.stdout
    assert f"removed {obsolete}\n" in told.stdout
    assert f"wrote {tmp_path}/.local/share/systemd/user/build.slice\n" in told.stdout
    assert files_below(tmp_path) == USER_FILES | {RECORD}
    install(tmp_path, "--user", "--uninstall")
    assert list(tmp_path.iterdir()) == []


def test_folders_of_others_stay(tmp_path: Path) -> None:
    """Only what install has made, and only if it is empty."""
    (tmp_path / ".local/share").mkdir(parents=True)
    install(tmp_path, "--user")
    other = tmp_path / ".local/share/systemd/user/other.service"
    other.write_text("[Service]\n")
    history = tmp_path / ".local/state/slicemgr/history.jsonl"
    history.write_text("{}\n")
    install(tmp_path, "--user", "--uninstall")
    assert files_below(tmp_path) == {path.relative_to(tmp_path).as_posix() for path in (other, history)}
    assert not (tmp_path / ".local/share/fish").exists()


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{}",
        "[]",
        '{"files": [], "folders": []}',
        '{"files": {"a": 1}, "folders": []}',
        '{"files": {"etc/passwd": []}, "folders": []}',
        "\udcff",
    ],
)
def test_a_broken_record(tmp_path: Path, record: str) -> None:
    """Nothing is done on its word."""
    file = tmp_path / RECORD
    file.parent.mkdir(parents=True)
    file.write_text(record, errors="surrogateescape")
    for arguments in (["--user"], ["--user", "--uninstall"]):
        told = install(tmp_path, *arguments)
        assert told.status == 125
        assert told.stderr == f"slicemgr install: '{file}' is no record of installed files; try moving it away\n"
    assert files_below(tmp_path) == {RECORD}


@pytest.mark.parametrize(
    ("home", "arguments", "stderr"),
    [
        (None, ["--user"], r"HOME is not set; try 'HOME=/your/home slicemgr install'"),
        ("relative", ["--user"], r"HOME is not set; try .*"),
        ("/nonexistent/\n", ["--user", "--now"], r"unrecognized arguments: --now; try .*"),
        ("/proc/self", ["--user"], r"can't change '/proc/self/.*': .*; try .*"),
        ("/tmp", ["--user", "--system"], r"argument --system: not allowed with argument --user; try .*"),
    ],
)  # fmt: skip
def test_errors_are_one_line(home: str | None, arguments: list[str], stderr: str) -> None:
    """That ends in what to try."""
    told = install(None if home is None else Path(home), *arguments)
    assert told.status == (2 if "argument" in stderr else 125)
    assert re.fullmatch(f"slicemgr install: {stderr}\n", told.stderr), told.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user; try sudo")
def test_not_as_root_in_the_home_of_another(tmp_path: Path) -> None:
    """`sudo slicemgr install --user` would leave root's files there."""
    os.chown(tmp_path, 65534, 65534)
    told = install(tmp_path, "--user")
    assert told.status == 125
    assert told.stderr == f"slicemgr install: '{tmp_path}' is somebody else's home; try it as that user, without sudo\n"
    assert files_below(tmp_path) == set()


def exec_start(home: Path) -> str:
    (line,) = re.findall(r"^ExecStart=(.*)$", (home / SERVICE).read_text(), re.MULTILINE)
    assert isinstance(line, str)
    return line


def test_the_service_starts_this_very_slicemgr(tmp_path: Path) -> None:
    """By the script that a person typed, absolute; else by this interpreter, which must not look into the cwd (-P)."""
    install(tmp_path, "--user")
    assert exec_start(tmp_path) == f"{sys.executable} -P -m slicemgr daemon --user"
    folder = tmp_path / "a 100% venv"
    folder.mkdir()
    script = folder / "slicemgr"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom slicemgr.cli import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    told = install(tmp_path, "--user", command=[str(script)])
    assert f"updated {tmp_path / SERVICE}\n" in told.stdout, told
    assert exec_start(tmp_path) == f'"{tmp_path}/a 100%% venv/slicemgr" daemon --user'


def test_a_slicemgr_that_starts_only_here_is_refused(tmp_path: Path) -> None:
    """The service has another working directory and no PYTHONPATH."""
    (tmp_path / "slicemgr").symlink_to(ROOT / "slicemgr")
    script = tmp_path / "bin/slicemgr"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable} -S\nfrom slicemgr.cli import main\nimport sys\nsys.exit(main())\n")
    script.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    told = install(home, "--user", command=[str(script)], settings={"PYTHONPATH": str(tmp_path)})
    assert told.status == 125
    assert re.fullmatch(r"slicemgr install: '.*/slicemgr' does not start outside of .*; try .*\n", told.stderr), told
    assert files_below(home) == set()


SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$0.log"
case "$*" in
*ActiveState*) if [ -n "$STATE" ]; then echo "$STATE"; exit 0; fi ;;
*FragmentPath*) for unit; do :; done; echo "$HOME/.local/share/systemd/user/$unit"; exit 0 ;;
esac
case "$*" in
$FAILS) echo "first line" >&2; echo "Boom" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The settings under which a service manager of the test's own seems to run."""
    program = tmp_path / "bin/systemctl"
    private = tmp_path / "run/systemd/private"
    for file in (program, private):
        file.parent.mkdir(parents=True)
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    (tmp_path / "home").mkdir()
    with socket.socket(socket.AF_UNIX) as ear:
        with monkeypatch.context() as there:
            there.chdir(private.parent)  # Its whole path may be too long for an address.
            ear.bind(private.name)
        yield {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": str(tmp_path / "run"),
            "STATE": "inactive",
            "FAILS": "none",
        }


RELOAD_FAILED = "'systemctl --user daemon-reload' failed: Boom; try 'systemctl --user daemon-reload' by hand"
STOP_LINE = "systemctl --user disable --now slicemgr.service slicemgr-session.service"
STOP_FAILED = f"'{STOP_LINE}' failed: Boom"
STOP = f"'{STOP_LINE}' by hand"
STAYS = f"{STOP_FAILED}, and nothing was removed; try {STOP}, or --destdir /"


@pytest.mark.parametrize(
    ("arguments", "fails", "state", "problem", "there"),
    [
        ([], "none", "inactive", "", True),
        ([], "*", "", RELOAD_FAILED, True),
        ([], "*daemon-reload", "inactive", RELOAD_FAILED, True),
        (["--uninstall"], "none", "active", "", False),
        (["--uninstall"], "*", "", STAYS, True),
        (["--uninstall"], "*disable*", "active", STAYS, True),
        (["--uninstall"], "*disable*", "deactivating", STAYS, True),
        (["--uninstall"], "*disable*", "inactive", f"{STOP_FAILED}; try {STOP}", False),
        (["--uninstall"], "*daemon-reload", "inactive", RELOAD_FAILED, False),
        (["--uninstall", "--destdir", "/"], "*", "active", "", False),
    ],
)
def test_what_systemctl_refuses_counts(
    tmp_path: Path, manager: dict[str, str], arguments: list[str], fails: str, state: str, problem: str, there: bool
) -> None:
    """125 and one line; and no service is left running without its unit."""
    home = tmp_path / "home"
    if arguments:
        assert install(home, "--user", settings=manager).status == 0
    told = install(home, "--user", *arguments, settings={**manager, "FAILS": fails, "STATE": state})
    assert (told.status, told.stderr) == ((125, f"slicemgr install: {problem}\n") if problem else (0, ""))
    assert files_below(home) == (USER_FILES | {RECORD} if there else set())
    done = {"kept", "wrote"} if not arguments else ({"removed"} if not there else set())
    assert set(first_words(told)) <= done
    assert bool(first_words(told)) == bool(done)


def test_a_service_that_runs_is_restarted_after_an_update(tmp_path: Path, manager: dict[str, str]) -> None:
    """It is started by hand otherwise."""
    home = tmp_path / "home"
    install(home, "--user", settings=manager)
    record = json.loads((home / RECORD).read_text())
    (home / SERVICE).write_text("# of an older one\n")
    record["files"][str(home / SERVICE)].append(hashlib.sha256(b"# of an older one\n").hexdigest())
    (home / RECORD).write_text(json.dumps(record))
    told = install(home, "--user", settings={**manager, "STATE": "active"})
    assert told.stdout.endswith("\nran systemctl --user daemon-reload\nnow try: systemctl --user restart slicemgr\n")


def test_a_systemctl_that_cant_be_executed(tmp_path: Path, manager: dict[str, str]) -> None:
    """It is not a file of ours that can't be changed."""
    program = tmp_path / "bin/systemctl"
    program.write_bytes(b"\0\0")
    told = install(tmp_path / "home", "--user", settings=manager)
    assert told.status == 125
    assert told.stderr == f"slicemgr install: '{program}' can't be executed: Exec format error; try 'file {program}'\n"
    assert files_below(tmp_path / "home") == USER_FILES | {RECORD}


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_has_to_read_it(tmp_path: Path, manager: dict[str, str], unbuffered: str) -> None:
    """`slicemgr install --uninstall | true` does the same, to its end."""
    home = tmp_path / "home"
    settings = {**manager, "PYTHONUNBUFFERED": unbuffered}
    for arguments, files in (([], USER_FILES | {RECORD}), (["--uninstall"], set())):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb", buffering=0) as pipe:
            told = install(home, "--user", *arguments, settings=settings, stdout=pipe)
        assert (told.status, told.stderr) == (0, "")
        assert files_below(home) == files


def test_a_home_that_is_no_utf_8(tmp_path: Path) -> None:
    """Its name is told as everywhere."""
    home = Path(os.fsdecode(bytes(tmp_path) + b"/h\xff"))
    home.mkdir()
    for arguments in (["--dry-run"], ["--uninstall"]):
        told = install(home, "--user", *arguments, settings={"PYTHONIOENCODING": "utf-8"})
        assert (told.status, told.stderr) == (0, "")
        assert f"{tmp_path}/h\\xff/" in told.stdout


def test_an_empty_destdir(tmp_path: Path) -> None:
    """A packaging script with a typo must not install below its working directory, nor into the machine."""
    for arguments in (["--destdir", ""], ["--destdir="], ["--destdir", "", "--uninstall"]):
        told = install(tmp_path, "--user", *arguments)
        assert told.status == 2
        assert told.stderr == "slicemgr install: --destdir is empty, as from a variable that is not set; try a folder\n"
    assert files_below(tmp_path) == set()


def test_a_dry_run_without_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """/var/lib/slicemgr is root's alone: what a file there is, is then not known, and that is said."""
    file = "/var/lib/slicemgr/installed.json"

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", file)

    slice_file = tmp_path / "usr/local/lib/systemd/system/build.slice"
    slice_file.parent.mkdir(parents=True)
    slice_file.write_text("[Slice]\n")
    monkeypatch.setattr(Record, "load", refused)
    arguments = ["--system", "--dry-run", "--destdir", str(tmp_path)]
    assert install_verb.main(arguments) == 0
    told = capsys.readouterr()
    assert told.err == f"slicemgr install: can't read '{file}': Permission denied, going on without it\n"
    assert f"would update or refuse {slice_file}: the record would tell whose it is\n" in told.out
    assert told.out.count("would write ") == len(SYSTEM_FILES) - 1
    assert install_verb.main([*arguments, "--uninstall"]) == 125
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"slicemgr install: can't read '{file}': Permission denied; try it as root\n")
    assert install_verb.main(["--system", "--destdir", str(tmp_path)]) == 125


@pytest.mark.parametrize("verb", VERBS)
def test_completions_know_every_option(verb: str) -> None:
    """What `--help` of a verb offers is in all three, and so is the verb."""
    help_text = subprocess.run([*SLICEMGR, verb, "--help"], capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"^  (?:-\w, )?--([a-z-]+)", help_text, re.MULTILINE))
    assert "help" in options
    for name, spelling in (("slicemgr.bash", "--{}"), ("_slicemgr", "--{}["), ("slicemgr.fish", "-l {}")):
        text = (COMPLETIONS / name).read_text()
        assert re.search(rf"\b{verb}\b", text), name
        for option in options:
            assert spelling.format(option) in text, f"{name}: {option}"
        assert " ".join(BACKENDS) in text


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["slicemgr", "in"], ["install"]),
        (["slicemgr", "run", "--sw"], ["--swap-max"]),
        (["slicemgr", "run", "--slice", "b"], ["build"]),
        (["slicemgr", "run", "--no-"], ["--no-pacing", "--no-tokens", "--no-relaunch"]),
        (["slicemgr", "run", "--profile", "a"], ["agent"]),
        (["slicemgr", "run", "--profile", "agent", "make", "--al"], ["of make"]),
        (["slicemgr", "run", "--no-pacing", "make", "--al"], ["of make"]),
        (["slicemgr", "run", "--never-hold", "ctest", "--retry", "2", "make", "--al"], ["of make"]),
        (["slicemgr", "run", "--never-hold", "ct"], []),
        (["slicemgr", "run", "--retry", "2"], []),
        (["slicemgr", "run", "--max", "2G", "--", "make", "--al"], ["of make"]),
        (["slicemgr", "run", "--max", "2G", "make", "--al"], ["of make"]),
        (["slicemgr", "run", "--max", "2"], []),
        (["slicemgr", "install", "--un"], ["--uninstall"]),
        (["slicemgr", "explain", "bu"], ["build.slice"]),
        (["slicemgr", "mon"], ["monitor"]),
        (["slicemgr", "steps", "--fo"], ["--forget"]),
        (["slicemgr", "steps", "--limit", "2"], []),
        (["slicemgr", "jobs", "sr"], ["file"]),
        (["slicemgr", "jobs", "--max", "2"], []),
        (["slicemgr", "monitor", "--js"], ["--json"]),
        (["slicemgr", "set", "--user", "bu"], ["build.slice"]),
        (["slicemgr", "set", "--no"], ["--no-ask-password"]),
        (["slicemgr", "pause", "--no"], ["--no-ask-password"]),
        (["slicemgr", "pause", "ma"], ["make", "make-2"]),
        (["slicemgr", "resume", "--user", "ka"], ["kate"]),
        (["slicemgr", "resume", "ev"], []),
        (["slicemgr", "set", "--user", "kate", "memory_m"], ["memory_max=", "memory_min="]),
        (["slicemgr", "set", "kate", "memory_max="], []),
        (["slicemgr", "run", "--max=2G", "make", "--al"], ["of make"]),
    ],
)  # fmt: skip
def test_bash_completes(words: list[str], offered: list[str], tmp_path: Path) -> None:
    """With the three functions of bash-completion that it uses as stubs: from the command on, the command's own."""
    script = f"""
        _init_completion() {{ words=("${{COMP_WORDS[@]}}"); cword=$COMP_CWORD; cur=${{words[cword]}}; prev=${{words[cword - 1]}}; }}
        _command_offset() {{ COMPREPLY=("of ${{words[$1]}}"); }}
        _filedir() {{ COMPREPLY=(file); }}
        slicemgr() {{ printf '%s\\tbuild.slice\\n' make 'ev$(touch {tmp_path}/evil)' 'ev il' make-2 kate; }}
        source {COMPLETIONS}/slicemgr.bash
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        _slicemgr
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split("\n")[:-1] == (offered or [""])
    assert not (tmp_path / "evil").exists()


def test_version_is_what_install_asks_for() -> None:
    """The check that the service will start compares with this line."""
    done = subprocess.run([*SLICEMGR, "--version"], capture_output=True, text=True)
    assert done.stdout == f"slicemgr {__version__}\n"
