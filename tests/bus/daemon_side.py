# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a daemon does for those who ask it, where nobody looks at what a test does not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slicemgr.config.schema import DEFAULT_MACHINE, DEFAULTS, Config
from slicemgr.kernel.pressure import PressureThread
from slicemgr.service.bus_face import DaemonSide
from slicemgr.service.history import History
from slicemgr.service.published import Standing
from slicemgr.service.session_watch import SessionSide

if TYPE_CHECKING:
    from pathlib import Path

    from slicemgr.service.explanation import Explanation


def daemon_side(
    address: str, folder: Path, *, user_uid: int | None, dry_run: bool = False, **changes: Any
) -> DaemonSide:
    """On this bus, with nothing in it."""
    return replace(
        DaemonSide(
            standing=Standing("1", user_uid, dry_run),
            look=lambda: (),
            history=History(str(folder)),
            explain=_explain,
            connect=None,
            sessions=SessionSide(
                user_uid,
                dry_run,
                address,
                str(folder),
                1 << 40,
                lambda: Config(tuple(DEFAULTS.values()), DEFAULT_MACHINE),
            ),
            reload=_nothing,
            hold=_no_hold,
            paused_changed=lambda _: None,
            pressure=PressureThread(lambda _: None),
            say=lambda _: None,
            wants_notices=lambda: False,
        ),
        **changes,
    )


def _explain(_cgroup: str) -> Explanation:
    raise AssertionError


async def _nothing() -> str:
    return ""


async def _no_hold(_: object) -> None:
    return
