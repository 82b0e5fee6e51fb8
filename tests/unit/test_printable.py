# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names for people."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.cli.printable import printable, printable_command


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"cc1plus", "cc1plus"),
        (b"foo) Z", "foo) Z"),
        (b"new\nline", "new\\nline"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("bäcker".encode(), "bäcker"),
        ("\u202egnp".encode(), "\\u202egnp"),  # right-to-left override
        (b"back\\slash", "back\\\\slash"),
        (b"", ""),
    ],
)
def test_nothing_that_draws(name: bytes, shown: str) -> None:
    """Control characters, invalid UTF-8 and tricks of direction are escaped."""
    assert printable(os.fsdecode(name)) == shown


@given(st.binary())
def test_any_name_is_one_visible_line(name: bytes) -> None:
    """And can be written to any stream."""
    shown = printable(os.fsdecode(name))
    assert shown.isprintable()
    shown.encode()


def test_two_names_never_look_alike() -> None:
    """A backslash of the name is told from one of ours."""
    assert printable("\n") != printable("\\n")


def test_a_command_line_is_shortened_in_the_middle() -> None:
    """Its end names the file that was at work."""
    shown = printable_command(["cc1plus", *["-I/usr/include/x"] * 40, "kate main.cpp"], longest=60)
    assert len(shown) == 60
    assert shown.startswith("cc1plus -I")
    assert "…" in shown
    assert shown.endswith("'kate main.cpp'")
    assert printable_command(["make", "-j20"]) == "make -j20"
