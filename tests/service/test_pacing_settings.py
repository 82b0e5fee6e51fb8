# SPDX-License-Identifier: LGPL-2.1-or-later
"""How builds are paced by a real configuration on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slicemgr.config import files
from slicemgr.kernel.machine import MachineReader
from slicemgr.service.pacing_settings import settings_for
from tests.service.waiting_child import descriptors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that counts, whoever runs the tests; there is none yet."""
    monkeypatch.setattr(files, "directories", lambda environment: (tmp_path,))
    return tmp_path / files.MAIN_FILE


@pytest.fixture
def total() -> int:
    machine = MachineReader()
    try:
        return machine.reading().total_bytes
    finally:
        machine.close()


def test_nothing_is_configured(config: Path) -> None:
    """Builds are paced, nobody is spared, nothing is borrowed, and the machine keeps what it always keeps."""
    settings = settings_for({}, ())
    assert (settings.enabled, settings.never_hold, settings.borrow_bytes) == (True, (), 0)
    assert settings.reserve_bytes > 0


def test_what_was_said_for_this_job_is_added(config: Path) -> None:
    """To what holds for all."""
    config.write_text('[pacing]\nnever_hold = ["ctest"]\n')
    assert settings_for({}, ["*_test"]).never_hold == ("ctest", "*_test")


def test_switched_off(config: Path) -> None:
    config.write_text("[pacing]\nenabled = false\n")
    assert not settings_for({}, ()).enabled


@pytest.mark.parametrize("text", ['"512M"', '"10%"'])
def test_what_may_be_borrowed(config: Path, total: int, text: str) -> None:
    """A size, or a share of the machine."""
    config.write_text(f"[pacing]\nborrow = {text}\n")
    expected = 512 * MIB if "M" in text else total // 10
    assert settings_for({}, ()).borrow_bytes == pytest.approx(expected, abs=MIB)


def test_the_reserve_is_the_daemon_s(config: Path) -> None:
    """One number for who kills and for who paces."""
    config.write_text('[machine]\nmemory_available = "123M"\n')
    assert settings_for({}, ()).reserve_bytes == 123 * MIB


@pytest.mark.parametrize(
    "text",
    [
        "[pacing]\nenabled = 3\n",
        "[pacing]\nnever_hold = [1]\n",
        "[pacing]\nborow = 1\n",
        "[pacing\n",
        "pacing = 1\n",
        "\0",
    ],
)
def test_a_fault_in_it(config: Path, text: str) -> None:
    """The daemon and `slicemgr config` tell of it; for builds the defaults hold, and what was said for this one."""
    config.write_text(text)
    settings = settings_for({}, ["ctest"])
    assert (settings.enabled, settings.never_hold, settings.borrow_bytes) == (True, ("ctest",), 0)


@pytest.mark.parametrize(("uid", "is_asked"), [(0, False), (1000, True)])
def test_a_user_has_a_file_of_his_own(monkeypatch: pytest.MonkeyPatch, uid: int, is_asked: bool) -> None:
    """And root has the machine's."""
    asked: list[Mapping[str, str] | None] = []

    def directories(environment: Mapping[str, str] | None) -> tuple[Path, ...]:
        asked.append(environment)
        return ()

    monkeypatch.setattr(files, "directories", directories)
    monkeypatch.setattr("os.getuid", lambda: uid)
    settings_for({"HOME": "/home/user"}, ())
    assert asked == [{"HOME": "/home/user"} if is_asked else None]


def test_no_descriptor_stays(config: Path) -> None:
    before = descriptors()
    settings_for({}, ())
    assert descriptors() == before
