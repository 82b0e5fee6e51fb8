# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for descriptors and times, without asyncio."""

import os
from functools import partial
from types import SimpleNamespace

import pytest

from slicemgr.service import waiting as waiting_module
from slicemgr.service.waiting import Waiting


def test_calls_for_what_can_be_read_and_what_is_due() -> None:
    """Each in its turn; a time that is far off is not waited for."""
    waiting, told = Waiting(), list[str]()
    reader, writer = os.pipe()
    waiting.add_reader(reader, lambda: told.append(os.read(reader, 9).decode()))
    waiting.call_later(3600, lambda: told.append("too early"))
    waiting.call_later(0.0, lambda: told.append("due"))
    waiting.wait()
    assert told == ["due"]
    os.write(writer, b"ready")
    waiting.wait()
    assert told == ["due", "ready"]
    os.close(writer)
    waiting.wait()
    assert told == ["due", "ready", ""]  # The end of the pipe is news as well.
    waiting.remove_reader(reader)
    os.close(reader)


def test_a_call_may_take_another_back() -> None:
    """Two descriptors at once: the first call removes the second."""
    waiting, told = Waiting(), list[str]()
    ends = [os.pipe(), os.pipe()]

    def call(other: int) -> None:
        told.append("first")
        waiting.remove_reader(other)

    for (reader, writer), (other, _) in zip(ends, reversed(ends), strict=True):
        os.write(writer, b"x")
        waiting.add_reader(reader, partial(call, other))
    waiting.wait()
    assert told == ["first"]
    for descriptor in (each for pair in ends for each in pair):
        os.close(descriptor)


def test_it_does_not_wake_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll counts whole milliseconds: what is due in 0.2 ms is waited for 1, not 0 a hundred times."""
    waited = list[float | None]()

    class Poll:
        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            waited.append(timeout)
            return []

    monkeypatch.setattr(waiting_module, "select", SimpleNamespace(poll=Poll))
    monkeypatch.setattr(waiting_module, "time", SimpleNamespace(monotonic=lambda: 100.0))
    waiting = Waiting()
    waiting.wait()
    waiting.call_later(0.0002, lambda: None)
    waiting.wait()
    assert waited == [None, 1]
