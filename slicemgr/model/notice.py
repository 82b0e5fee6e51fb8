# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a desktop shows to a person about a job, as values (Desktop Notifications Specification)."""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NotificationSpec:
    """What the configuration says of notices."""

    enabled: bool = True


class Urgency(enum.Enum):
    """The specification's, with its numbers."""

    LOW = 0
    NORMAL = 1
    CRITICAL = 2
    """It stays until the person has seen it."""


class NoticeAction(enum.Enum):
    """What a person can press; the values are the keys on the bus."""

    MORE_MEMORY = "more-memory"
    STOP = "stop"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Bubble:
    """One notice: plain text, with nothing in it that a process could draw with."""

    summary: str
    """One line."""
    body: str
    """Lines; not yet escaped."""
    urgency: Urgency = Urgency.NORMAL
    actions: tuple[tuple[NoticeAction, str], ...] = ()
    """What can be pressed, with its label."""
    is_transient: bool = False
    """It is worth nothing once it is off the screen."""

    @property
    def markup(self) -> str:
        """The body for a server that reads markup (`body-markup`): what looks like markup in it stays text."""
        return self.body.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    def says(self, other: "Bubble | None") -> bool:
        """Whether it tells a person the same."""
        return other is not None and (self.summary, self.body) == (other.summary, other.body)
