# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which numbers were given out since the last question, asked of the real kernel and of numbers that are given."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.kernel import formats
from slicemgr.kernel.births import MOST_NEW, PATH, Births
from slicemgr.kernel.errors import FormatError
from slicemgr.kernel.formats import parse_last_pid
from tests.service.waiting_child import descriptors, waiting_child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENOUGH = 2000
"""Questions; on a machine where others fork all the time one answer may be anything."""


@pytest.fixture
def births() -> Iterator[Births]:
    made = Births()
    yield made
    made.close()


def test_the_first_question(births: Births) -> None:
    """Whoever lives by then is new."""
    assert births.since_last() is None


def test_a_child_is_among_them(births: Births) -> None:
    """Unless there were so many that nobody counts them."""
    births.since_last()
    with waiting_child() as child:
        answer = births.since_last()
        assert answer is None or child.pid in answer


def test_a_thread_is_among_them(births: Births) -> None:
    """It has a number of its own; whose it is, is asked later."""
    births.since_last()
    thread = threading.Thread(target=threading.get_native_id)
    thread.start()
    answer = births.since_last()
    thread.join()
    assert answer is None or thread.native_id in answer


def test_nobody_was_born(births: Births) -> None:
    """In the moment between two questions."""
    answers = (births.since_last() for _ in range(ENOUGH))
    assert any(answer is not None and len(answer) == 0 for answer in answers)


@given(last=st.lists(st.integers(0, 1 << 22), min_size=1))
def test_no_number_is_missed_and_none_comes_twice(last: list[int]) -> None:
    """As long as it counts; numbers that begin anew are no count."""
    births = Births()
    given_out = iter(last)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(formats, "parse_last_pid", lambda text: next(given_out))
            before = -1
            for number in last:
                answer = births.since_last()
                if before < 0 or not 0 <= number - before <= MOST_NEW:
                    assert answer is None
                else:
                    assert list(answer or ()) == list(range(before + 1, number + 1))
                before = number
    finally:
        births.close()


def test_a_file_that_is_not_the_kernel_s(tmp_path: Path) -> None:
    """lxcfs has one of its own, whose last number is another's: then nobody knows."""
    file = tmp_path / "loadavg"
    file.write_text("0.20 0.18 0.12 1/80 11206\n")
    before = descriptors()
    births = Births(str(file))
    assert descriptors() == before
    assert [births.since_last() for _ in range(3)] == [None] * 3
    births.close()


def test_no_file(tmp_path: Path) -> None:
    births = Births(str(tmp_path / "loadavg"))
    assert births.since_last() is None
    births.close()


def test_a_file_that_says_nothing(births: Births, monkeypatch: pytest.MonkeyPatch) -> None:
    """For once: then it knows again."""
    births.since_last()
    original = os.pread
    monkeypatch.setattr(os, "pread", lambda *_: b"0.20 0.18\n")
    assert births.since_last() is None
    monkeypatch.setattr(os, "pread", original)
    answers = (births.since_last() for _ in range(ENOUGH))
    assert any(answer is not None for answer in answers)


def test_its_descriptor() -> None:
    """One, and closed once."""
    before = descriptors()
    births = Births()
    assert len(descriptors()) == len(before) + 1
    births.close()
    births.close()
    assert descriptors() == before
    assert births.since_last() is None


@pytest.mark.parametrize("text", [b"", b"0.2 0.1 0.1 1/80\n", b"0.2 0.1 0.1 1/80 x\n"])
def test_another_format(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_last_pid(text)


def test_the_kernel_s_own_format() -> None:
    with open(PATH, "rb") as file:
        assert parse_last_pid(file.read()) > 0
