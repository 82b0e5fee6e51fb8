# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a VM test asks for, and in which order the guest gets it."""

from __future__ import annotations

import pytest

from tests.vm.marking import MarkerError, Request


def test_nearest_marker_wins() -> None:
    """A test's own marker overrides its file's, argument by argument."""
    request = Request.from_marks([{"swap": "zram"}, {"swap": "disk", "users": ["root"]}, {}])
    assert request == Request(users=("root",), swap="zram")


@pytest.mark.parametrize(
    ("keywords", "word"),
    [({"user": ("root",)}, "user"), ({"users": ("nobody",)}, "nobody"), ({"swap": "tape"}, "tape")],
)
def test_wrong_marker_names_the_mistake(keywords: dict[str, object], word: str) -> None:
    """A marker that cannot be followed is refused with the word that is wrong."""
    with pytest.raises(MarkerError, match=word):
        Request.from_marks([keywords])


def test_plain_tests_come_before_those_with_swap() -> None:
    """Swap that a group left on cannot disturb a test that wants none."""
    plain = [Request().order(user) for user in ("root", "tester")]
    swapped = [Request(swap=swap).order(user) for swap in ("disk", "zram") for user in ("root", "tester")]
    assert plain + swapped == sorted(plain + swapped)
