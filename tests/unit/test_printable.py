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


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["make", "-j20"], "make -j20"),
        (["/usr/lib/gcc/12/cc1plus", "-quiet", *["-I/usr/include/x"] * 9, "kate main.cpp", "-dumpbase", "kate main.cpp", "-o", "/tmp/a.s"],
         "cc1plus … 'kate main.cpp' /tmp/a.s"),
        (["rustc", *["--cfg=feature"] * 9], "rustc"),
        (["ld", *(f"{at}.o" for at in range(40))], "ld … 0.o 1.o 2.o…o 34.o 35.o 36.o 37.o 38.o 39.o"),
        ([], ""),
    ],
)  # fmt: skip
def test_a_command_line_is_shortened_to_what_it_was_at(arguments: list[str], shown: str) -> None:
    """Options go first, then the middle."""
    assert printable_command(arguments, longest=48) == shown
