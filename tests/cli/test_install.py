# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr install` into a home of its own, and out again; no service manager is asked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from slicemgr import __version__
from slicemgr.cli import VERBS
from slicemgr.cli.run_options import BACKENDS
from tests.cli.slicemgr_command import SLICEMGR, Ended

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
COMPLETIONS = ROOT / "slicemgr/completions"

USER_FILES = {
    ".local/share/systemd/user/slicemgr.service",
    ".local/share/systemd/user/build.slice",
    ".local/share/systemd/user/session.slice.d/10-slicemgr.conf",
    ".local/share/systemd/user/app.slice.d/10-slicemgr.conf",
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
) -> Ended:
    """Run it with this HOME, and without a service manager to be found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_") and name != "HOME"}
    environment |= {"XDG_RUNTIME_DIR": "/nonexistent", **settings}
    if home is not None:
        environment["HOME"] = str(home)
    done = subprocess.run(
        [*command, "install", *arguments], env=environment, capture_output=True, text=True, timeout=60
    )
    return Ended(done.returncode, done.stdout, done.stderr)


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
        (["slicemgr", "run", "--max", "2G", "--", "make", "--al"], ["of make"]),
        (["slicemgr", "run", "--max", "2G", "make", "--al"], ["of make"]),
        (["slicemgr", "run", "--max", "2"], []),
        (["slicemgr", "install", "--un"], ["--uninstall"]),
        (["slicemgr", "explain", "bu"], ["build.slice"]),
    ],
)  # fmt: skip
def test_bash_completes(words: list[str], offered: list[str]) -> None:
    """With the three functions of bash-completion that it uses as stubs: from the command on, the command's own."""
    script = f"""
        _init_completion() {{ words=("${{COMP_WORDS[@]}}"); cword=$COMP_CWORD; cur=${{words[cword]}}; prev=${{words[cword - 1]}}; }}
        _command_offset() {{ COMPREPLY=("of ${{words[$1]}}"); }}
        _filedir() {{ COMPREPLY=(file); }}
        source {COMPLETIONS}/slicemgr.bash
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        _slicemgr
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split("\n")[:-1] == (offered or [""])


def test_version_is_what_install_asks_for() -> None:
    """The check that the service will start compares with this line."""
    done = subprocess.run([*SLICEMGR, "--version"], capture_output=True, text=True)
    assert done.stdout == f"slicemgr {__version__}\n"
