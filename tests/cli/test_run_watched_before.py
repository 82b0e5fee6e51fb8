# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guard of `slicemgr run` that comes after a daemon: what that one has told is not told again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.placed_run import WHILE_READING, Daemon, Place

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("own", "system", "is_new"),
    [
        ("ok", None, False),
        ("ok", "error it is in no slice of mine", False),
        ("error it is in no slice of mine", "ok", False),
        ("error it is in no slice of mine", None, True),
        (None, None, True),
    ],
)
def test_whether_the_job_is_new_to_it(
    place: Place, daemon: Callable[..., Daemon], own: str | None, system: str | None, is_new: bool
) -> None:
    """Not if any daemon has watched it, whichever was asked last: one that restarts, and then one that refuses."""
    for path, answer in ((place.socket, own), (place.system_socket, system)):
        if answer is not None:
            daemon(lambda connection, answer=answer: connection.sendall(f"{answer}\n".encode()), path)
    done, report = place.run(*WHILE_READING, str(place.fifo))
    assert (done.stdout, report["watched_by"]) == ("seen by run\n", "run")
    asked = place.asked.with_name("asked-of-guard")
    assert json.loads(asked.read_text()) == {"is_new": is_new}
