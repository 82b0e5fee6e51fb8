# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices on a real desktop: dunst shows what the user's daemon tells, and what is pressed there is done."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.vm.bystanders import until
from tests.vm.living import held, is_gone, leak, living, quiet, slice_directory
from tests.vm.systemd import run
from tests.vm.test_bus import BUILD_400M, JOB_100M, call, is_there

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.vm(users=("tester",), timeout=240)

DISPLAY = ":8"


class Dunst:
    """A notification server with a screen, and a person who always presses what `wish` says."""

    def __init__(self, folder: Path) -> None:
        self.wish = folder / "wish"

    def shown(self) -> int:
        """Bubbles on the screen."""
        return int(run("dunstctl", "count", "displayed"))

    def press(self, label: str) -> None:
        """Of all actions of all bubbles that are on the screen."""
        self.wish.write_text(label)
        run("dunstctl", "context")

    def closed(self) -> list[tuple[str, str]]:
        """Summary and body of each bubble, the newest first, once all of them have been closed."""
        run("dunstctl", "close-all")
        told: dict[str, Any] = json.loads(run("dunstctl", "history"))
        return [(each["summary"]["data"], each["body"]["data"]) for each in told["data"][0]]


@contextlib.contextmanager
def desktop(folder: Path) -> Iterator[Dunst]:
    dunst = Dunst(folder)
    menu = folder / "menu"
    menu.write_text(f'#!/bin/sh\ntee -a {folder}/offered | grep -F "$(cat {dunst.wish})" | head -n 1\n')
    menu.chmod(0o755)
    settings = folder / "dunstrc"
    settings.write_text(
        f"[global]\ndmenu = {menu}\ndefault_timeout = 0\n[urgency_low]\ntimeout = 0\n[urgency_normal]\ntimeout = 0\n"
    )
    log = (folder / "dunst.log").open("w")
    screen = subprocess.Popen(["Xvfb", DISPLAY, "-screen", "0", "640x480x24", "-extension", "GLX"], stderr=log)
    server = None
    try:
        until(lambda: os.path.exists(f"/tmp/.X11-unix/X{DISPLAY[1:]}"), "there is a screen", 60)
        server = subprocess.Popen(["dunst", "-conf", settings], env={**os.environ, "DISPLAY": DISPLAY}, stderr=log)
        until(lambda: subprocess.run(["dunstctl", "count"], capture_output=True).returncode == 0, "dunst is there", 60)
        yield dunst
    finally:
        for each in (server, screen):
            if each is not None:
                each.terminate()
                each.wait()
        log.close()


def test_a_kill_is_one_bubble(tmp_path: Path, vm_files: Path) -> None:
    """Who, how much, why, and what to do about it; the warning before it and the kill are the same bubble."""
    with desktop(tmp_path) as dunst, living(BUILD_400M) as service:
        until(is_there, "it is on the bus")
        with held(tmp_path, leak(rate="20M"), *JOB_100M) as job:
            until(lambda: is_gone(job.hog), "the leak is ended")
        until(service.victims, "it is told")
        until(dunst.shown, "it is shown")
        assert dunst.shown() == 1
        bubbles = dunst.closed()
        (vm_files / "bubbles.json").write_text(json.dumps(bubbles))
        summary, body = bubbles[0]
        assert summary == '1 process ended in build "python3"'
        assert body.startswith("leak (")
        assert "To keep all: fewer steps at once, or a higher limit." in body


@pytest.mark.parametrize("button", ["Resume the build", "Stop the build"])
def test_what_is_pressed_is_done(tmp_path: Path, button: str) -> None:
    """A job that stands still goes on, and its bubble goes; or it is ended."""
    with desktop(tmp_path) as dunst, living(BUILD_400M), held(tmp_path, quiet("still", "10M"), *JOB_100M) as job:
        until(is_there, "it is on the bus")
        until(lambda: call("/org/slicemgr1", "Manager", "ListJobs", "a{sv}", "0")[0], "it is listed")
        ((unit, path),) = call("/org/slicemgr1", "Manager", "ListJobs", "a{sv}", "0")[0]
        frozen = slice_directory("build.slice") / unit / "cgroup.freeze"
        call(path, "Job", "Pause", "a{sv}", "0")
        until(dunst.shown, "it is shown")
        assert frozen.read_text() == "1\n"
        dunst.press(button)
        if button == "Stop the build":
            until(lambda: is_gone(job.hog), "it is ended")
            return
        until(lambda: frozen.read_text() == "0\n", "it goes on")
        until(lambda: dunst.shown() == 0, "the bubble has gone with it")
