# SPDX-License-Identifier: LGPL-2.1-or-later
"""What crosses the line between guest and host arrives as it was sent, or not at all."""

from __future__ import annotations

import pytest

from tests.vm.protocol import (
    Alive,
    Bye,
    Event,
    Finished,
    Group,
    GroupEnded,
    Job,
    Output,
    Report,
    SavedFile,
    Started,
    decode,
    encode,
)

EVENTS: list[Event] = [
    Alive("booting", 5.0, 1.5),
    Started("a.py::b[root]", 30.0),
    Report("a.py::b[root]", "call", "failed", "E   \N{SNOWMAN}\n", ("a.py", 3, "no"), (("stdout", "x"),), 0.1),
    Report("a.py::b[root]", "teardown", "passed"),
    Finished("a.py::b[root]"),
    Output("\x1b[1mtext\n"),
    SavedFile("name", "aGk="),
    GroupEnded("tester", None, 1),
    Bye(60.0),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_event_survives_the_line(event: Event) -> None:
    """An event is one line, and reads back equal."""
    line = encode(event)
    assert line.count(b"\n") == 1
    assert decode(line) == event


@pytest.mark.parametrize(
    "line", [b"", b"\n", b'{"event": "Ali', b"[]", b'{"event": "Nonsense"}', b'{"event": "Bye", "x": 1}']
)
def test_torn_line_is_no_event(line: bytes) -> None:
    """The last line of a guest that died is dropped, not raised."""
    assert decode(line) is None


def test_job_survives_the_drive() -> None:
    """A job reads back equal."""
    job = Job((Group("root", "zram", ("a.py::b[root]",)), Group("tester", None, ())))
    assert Job.from_json(job.to_json()) == job
