# SPDX-License-Identifier: LGPL-2.1-or-later
"""Exit statuses of our own; those of a command are passed on as they are (env(1) and timeout(1) do the same)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class ExitCode(int):
    """Why slicemgr itself ended. No enum: `slicemgr run` is light, see model/quantity.py."""

    __slots__ = ()

    USAGE: ClassVar[ExitCode]
    """The request can't be meant."""
    OWN_FAILURE: ClassVar[ExitCode]
    """slicemgr could not do its part; the command was not run."""
    NOT_EXECUTABLE: ClassVar[ExitCode]
    """The command was found, and can't be executed."""
    NOT_FOUND: ClassVar[ExitCode]


ExitCode.USAGE = ExitCode(2)
ExitCode.OWN_FAILURE = ExitCode(125)
ExitCode.NOT_EXECUTABLE = ExitCode(126)
ExitCode.NOT_FOUND = ExitCode(127)
