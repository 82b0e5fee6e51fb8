# SPDX-License-Identifier: LGPL-2.1-or-later
"""What pytest on the host makes of a guest that dies, answers in part, or cannot be had at all."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.vm.checkout import ROOT
from tests.vm.image import key
from tests.vm.protocol import Event, Finished, Report, Started, encode
from tests.vm.recipe import chosen

if TYPE_CHECKING:
    from pathlib import Path

TEST = "tests/vm/test_guest.py::test_root_has_the_controllers[root]"
OTHER = "tests/vm/test_guest.py::test_systemd_is_process_1[root]"
COLUMNS = {"COLUMNS": "200"}  # pytest cuts its summary lines at the width of the terminal


def run_pytest(*arguments: str, **environment: str) -> str:
    """What a pytest of its own prints; `environment` comes on top of ours, less CI."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    ours = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**ours, **COLUMNS, **environment})
    return done.stdout + done.stderr


def fake_qemu(folder: Path, events: list[Event], last_words: str) -> dict[str, str]:
    """The environment in which a script that says `events` and dies is qemu, and an empty folder the image."""
    (folder / "cache/slicemgr/vm" / f"{chosen().suite}-{key(chosen())}").mkdir(parents=True)
    programs = folder / "bin"
    programs.mkdir()
    (folder / "said").write_bytes(b"".join(map(encode, events)))
    qemu = programs / "qemu-system-x86_64"
    qemu.write_text(
        "#!/bin/sh\nfor word; do case $word in file,id=results,path=*) port=${word##*=};; esac; done\n"
        f"cat '{folder}/said' > $port\necho '{last_words}' >&2\n"
    )
    qemu.chmod(0o755)
    for name in ("mmdebstrap", "genext2fs", "newuidmap", "tune2fs"):
        (programs / name).symlink_to("/bin/false")
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "SLICEMGR_VM_RESULTS": str(folder / "results"),
    }


def test_died_guest_fails_what_it_did_not_finish(tmp_path: Path) -> None:
    """Results that came before the end count; every other test fails, the first of them with the last words."""
    events: list[Event] = [Started(TEST, 10.0)]
    events += [Report(TEST, when, "passed") for when in ("setup", "call", "teardown")]
    events += [Finished(TEST), Started(OTHER, 10.0)]
    printed = run_pytest(TEST, OTHER, **fake_qemu(tmp_path, events, "Kernel panic"))
    assert "1 failed, 1 passed" in printed
    assert f"FAILED {OTHER} - the guest ended in the middle of its work" in printed
    assert printed.count("Kernel panic") == 1


def test_failure_in_the_guest_reads_like_one_of_the_host(tmp_path: Path) -> None:
    """Traceback, captured output and summary line are the guest's own."""
    crash = ("/srv/slicemgr/x.py", 7, "AssertionError: no memory controller")
    report = Report(TEST, "call", "failed", "E   no memory controller", crash, (("Captured stdout", "seen"),))
    printed = run_pytest(TEST, **fake_qemu(tmp_path, [report, Finished(TEST)], ""))
    assert f"FAILED {TEST} - AssertionError: no memory controller" in printed
    assert "E   no memory controller\n" in printed
    assert "- Captured stdout -" in printed


@pytest.mark.parametrize(("ci", "verdict"), [("", "1 skipped"), ("true", "1 error")])
def test_missing_package_is_a_skip_on_a_laptop_and_a_failure_in_ci(ci: str, verdict: str) -> None:
    """Either way the reason names what to install."""
    printed = run_pytest(TEST, PATH="/nonexistent", CI=ci)
    assert verdict in printed
    assert "try `apt-get install mmdebstrap" in printed


def test_selection_needs_no_guest() -> None:
    """Collecting boots nothing, and ids carry the user."""
    printed = run_pytest("tests/vm/test_guest.py", "--collect-only", "-q", "-k", "psi and tester", PATH="")
    assert "test_psi_is_there_and_parses[tester-memory]" in printed
    assert "[root" not in printed
