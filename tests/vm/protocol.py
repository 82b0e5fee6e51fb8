# SPDX-License-Identifier: LGPL-2.1-or-later
"""What host and guest say to each other: a job on the way in, one event per line of JSON on the way out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Group:
    """Tests that share a user and a kind of swap, hence one pytest process in the guest."""

    user: str
    swap: str | None
    nodeids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """What one boot is for."""

    groups: tuple[Group, ...] = ()
    interactive: bool = False
    """No tests: a person gets a root shell on the serial line."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        raw = json.loads(text)
        groups = tuple(Group(g["user"], g["swap"], tuple(g["nodeids"])) for g in raw["groups"])
        return cls(groups, raw["interactive"])


@dataclass(frozen=True, slots=True)
class Alive:
    """The guest promises its next event within `within_seconds`; silence for longer means that it hangs."""

    doing: str
    within_seconds: float
    uptime_seconds: float


@dataclass(frozen=True, slots=True)
class Started:
    """A test begins; the promise is as in Alive."""

    nodeid: str
    within_seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """One phase of one test, as pytest reported it in the guest; `when` is "collect" for a file."""

    nodeid: str
    when: str
    outcome: str
    text: str = ""
    """Traceback of a failure, or the reason of a skip."""
    crash: tuple[str, int, str] | None = None
    """Path, line and message of where it failed, or of the skip."""
    sections: tuple[tuple[str, str], ...] = ()
    duration_seconds: float = 0.0
    wasxfail: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A test has sent its last report."""

    nodeid: str


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what pytest printed in the guest."""

    text: str


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file that a test left for the host."""

    name: str
    base64: str


@dataclass(frozen=True, slots=True)
class GroupEnded:
    """A group's last pytest process has ended with this exit code."""

    user: str
    swap: str | None
    exit_code: int


@dataclass(frozen=True, slots=True)
class Bye:
    """All groups have run; the guest powers off."""

    uptime_seconds: float = field(default=0.0)


Event = Alive | Started | Report | Finished | Output | SavedFile | GroupEnded | Bye

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Alive, Started, Report, Finished, Output, SavedFile, GroupEnded, Bye)
}


def encode(event: Event) -> bytes:
    """One line; ASCII only, so a line torn by the end of the guest never tears a character."""
    return json.dumps({"event": type(event).__name__, **asdict(event)}).encode() + b"\n"


def decode(line: bytes) -> Event | None:
    """The event of a line, None for a line that is none: the last line of a dead guest is often torn."""
    try:
        raw = json.loads(line)
        kind = _KINDS[raw.pop("event")]
        if kind is Report:
            raw["crash"] = tuple(raw["crash"]) if raw["crash"] else None
            raw["sections"] = tuple((name, text) for name, text in raw["sections"])
        event: Event = kind(**raw)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return event
