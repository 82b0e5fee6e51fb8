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
    "--retry": "retry",
    "--profile": "profile",
}

_SWITCHES: Final = {
    "--no-pacing": "pacing",
    "--no-tokens": "tokens",
    "--no-relaunch": "relaunch",
}
"""Each turns off what is on."""

PROFILES: Final = ("build", "agent")


class RunOptions:
    """What stands on the command line, unread. None: not given."""

    __slots__ = (
        "backend",
        "command",
        "high",
        "json",
        "max",
        "name",
        "never_hold",
        "pacing",
        "profile",
        "relaunch",
        "retry",
        "slice",
        "swap_max",
        "tokens",
    )

    def __init__(self) -> None:
        self.max: str | None = None
        self.high: str | None = None
        self.swap_max: str | None = None
        self.slice: str | None = None
        self.name: str | None = None
        self.json: str | None = None
        self.backend = "auto"
        self.pacing = True
        self.tokens = True
        self.relaunch = True
        self.never_hold: list[str] = []
        self.retry: str | None = None
        self.profile = "build"
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
        if word in _SWITCHES:
            setattr(options, _SWITCHES[word], False)
            continue
        name, is_joined, value = word.partition("=")
        if name not in _NAMES and name != "--never-hold":
            return None
        if not is_joined:
            # What begins with a dash may be a value, and is more likely the next option.
            if at == len(arguments) or arguments[at].startswith("-"):
                return None
            value = arguments[at]
            at += 1
        if (name == "--backend" and value not in BACKENDS) or (name == "--profile" and value not in PROFILES):
            return None
        if name == "--never-hold":
            options.never_hold.append(value)
        else:
            setattr(options, _NAMES[name], value)
    options.command = list(arguments[at:])  # With its `--`, as argparse leaves it.
    return options
