# SPDX-License-Identifier: LGPL-2.1-or-later
"""Exit statuses of our own; those of a command are passed on as they are (env(1) and timeout(1) do the same)."""

import enum


class ExitCode(enum.IntEnum):
    """Why slicemgr itself ended."""

    USAGE = 2
    """The request can't be meant."""
    OWN_FAILURE = 125
    """slicemgr could not do its part; the command was not run."""
    NOT_EXECUTABLE = 126
    """The command was found, and can't be executed."""
    NOT_FOUND = 127
