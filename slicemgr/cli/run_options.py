# SPDX-License-Identifier: LGPL-2.1-or-later
"""The options of `slicemgr run`, read without argparse when they are well-formed: that takes 9 ms to import.

Whatever is not well-formed, `--help` too, goes to the parser in run_parser.py, which knows what to say.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

BACKENDS: Final = ("auto", "systemd", "cgroup", "embedded")

_NAMES: Final = {
    "--max": "max",
    "--high": "high",
    "--swap-max": "swap_max",
    "--slice": "slice",
    "--name": "name",
    "--json": "json",
    "--backend": "backend",
}


class RunOptions:
    """What stands on the command line, unread. None: not given."""

    __slots__ = ("backend", "command", "high", "json", "max", "name", "slice", "swap_max")

    def __init__(self) -> None:
        self.max: str | None = None
        self.high: str | None = None
        self.swap_max: str | None = None
        self.slice = "build"
        self.name: str | None = None
        self.json: str | None = None
        self.backend = "auto"
        self.command: list[str] = []


def read_options(arguments: Sequence[str]) -> RunOptions | None:
    """The options if all is well-formed; None for whatever the other parser has to judge."""
    options = RunOptions()
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        word = arguments[at]
        at += 1
        if word == "--":
            at -= 1
            break
        name, is_joined, value = word.partition("=")
        if name not in _NAMES:
            return None
        if not is_joined:
            # What begins with a dash may be a value, and is more likely the next option.
            if at == len(arguments) or arguments[at].startswith("-"):
                return None
            value = arguments[at]
            at += 1
        if name == "--backend" and value not in BACKENDS:
            return None
        setattr(options, _NAMES[name], value)
    options.command = list(arguments[at:])  # With its `--`, as argparse leaves it.
    return options
