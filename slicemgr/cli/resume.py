# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr resume`: the other half of pause.py."""

from collections.abc import Sequence

from slicemgr.cli.pause import order


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    return order("resume", arguments)
