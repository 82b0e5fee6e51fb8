# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who computes and who only starts others, by name."""

import itertools

import pytest

from slicemgr.build.steps import is_driver, is_excluded, is_job_of_a_shell

DRIVING = [
    *("make", "gmake", "make-4.4", "ninja", "ninja-build", "cargo", "sh", "bash", "ccache", "xargs", "time", "flock"),
    *(
        "gcc",
        "g++",
        "cc",
        "c++",
        "gcc-12",
        "g++-12",
        "collect2",
        "lto-wrapper",
        "gcc-ar",
        "gcc-ranlib-12",
        "slicemgr",
        "faked-sysv",
    ),
    # As /proc tells them: 15 bytes.
    *("dpkg-buildpacka", "clang-cache"),
    # The name of the file, where the comm is cut.
    *("x86_64-linux-gnu-g++-12", "aarch64-linux-gnu-gcc", "arm-none-eabi-gcc-13.2.1", "x86_64-linux-gnu-gcc"),
]
COMPUTING = [
    *("cc1", "cc1plus", "lto1", "as", "ld", "ld.gold", "ld.lld", "mold", "rustc", "clang", "clang-14", "clang++"),
    *("meinproc5", "python3", "python3.11", "java", "moc", "doxygen", "node", "", "-", "12", "1.2", "-gcc-", "mygcc"),
    *("x86_64-linux-gn", "x86_64-linux-gnu-ld", "makefile", "shark", "cargo-x"),
]


@pytest.mark.parametrize("name", DRIVING)
def test_drivers(name: str) -> None:
    """Never wait: they hold no memory, and others' work."""
    assert is_driver(name)


@pytest.mark.parametrize("name", COMPUTING)
def test_who_computes(name: str) -> None:
    """May wait."""
    assert not is_driver(name)


@pytest.mark.parametrize(
    ("name", "patterns", "excluded"),
    [
        ("ctest", ["ctest"], True),
        ("ctest", [], False),
        ("ctest", ["cc1*", "ct?st"], True),
        ("unit_test", ["*_test"], True),
        ("unit_tests", ["*_test"], False),
        ("test_b", ["test_[ab]"], True),
        ("test_c", ["test_[ab]"], False),
        ("a-very-long-nam", ["a-very-long-name-of-a-test"], True),
        ("a-very-long-nam", ["a-very-long-n*"], True),
        ("CTest", ["ctest"], False),
        ("", ["*"], True),
    ],
)
def test_exclusion(name: str, patterns: list[str], excluded: bool) -> None:
    """As a person says it, in any order of the patterns."""
    for order in itertools.permutations(patterns):
        assert is_excluded(name, order) == excluded


def test_a_job_of_an_interactive_shell() -> None:
    """Has a process group of its own, and a shell above it."""
    assert is_job_of_a_shell(7, 7, "bash")
    assert not is_job_of_a_shell(7, 5, "bash")
    assert not is_job_of_a_shell(7, 7, "make")
    assert not is_job_of_a_shell(7, 7, "")
