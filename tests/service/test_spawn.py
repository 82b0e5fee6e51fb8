# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command in two steps: what is left of it when it can't be executed."""

from __future__ import annotations

import errno
import os

import pytest

from slicemgr.kernel.spawn import CommandError, HeldCommand


def is_collected(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def test_a_command_that_cant_be_executed_is_collected() -> None:
    """It tells why before it ends: who takes its cgroup away must not meet it there."""
    command = HeldCommand(["/nowhere/at/all"], (), "")
    with pytest.raises(CommandError) as refused:
        command.let_go()
    assert refused.value.errno == errno.ENOENT
    assert is_collected(command.pid)


def test_a_command_that_is_given_up_is_collected() -> None:
    """And has executed nothing."""
    command = HeldCommand(["/nowhere/at/all"], (), "")
    command.give_up()
    assert is_collected(command.pid)
