# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that hangs is ended with its console shown: a shell script stands in for qemu."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.vm import boot
from tests.vm.protocol import Alive, Bye, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    StartGuest = Callable[[str], boot.Guest]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartGuest]:
    """Start a guest that is this script; `$R` is its port, and it stands in its results folder."""
    guests = []

    def start_guest(script: str) -> boot.Guest:
        reading, writing = os.pipe()
        command = ["sh", "-c", f"cd '{tmp_path}'; R=/dev/fd/{writing}; {script}"]
        guests.append(boot.Guest(command, tmp_path, (reading, writing)))
        return guests[-1]

    yield start_guest
    for guest in guests:
        guest.end()


def test_guest_that_never_speaks_is_ended(start: StartGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence beyond the limit of a boot ends the guest; the error shows the console's last lines."""
    monkeypatch.setattr(boot, "BOOT_SECONDS", 0.3)
    guest = start("echo Kernel panic > console.log; exec sleep 1000")
    with pytest.raises(boot.GuestDiedError, match=r"(?s)silent for 0 s while booting.*Kernel panic"):
        guest.next_event()
    assert guest.next_event() is None  # qemu is gone


def test_guest_is_held_to_its_own_promise(start: StartGuest) -> None:
    """The limit is what the guest last promised, and the error says what it was doing."""
    promise = encode(Alive("knitting", 0.2, 1.0)).decode().strip()
    guest = start(f"echo '{promise}' > $R; exec sleep 1000")
    assert guest.next_event() == Alive("knitting", 0.2, 1.0)
    with pytest.raises(boot.GuestDiedError, match="while knitting"):
        guest.next_event()


def test_guest_that_ends_is_heard_to_the_end(start: StartGuest) -> None:
    """What the guest said before it ended is delivered, then None; a torn last line is not an event."""
    farewell = encode(Bye(1.0)).decode().strip()
    guest = start(f"echo '{farewell}' > $R; printf '{{\"event\": \"Fin' > $R; echo no such machine >&2")
    assert guest.next_event() == Bye(1.0)
    assert guest.next_event() is None
    assert "no such machine" in guest.console_tail()
