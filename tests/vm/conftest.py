# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes the test files of this folder run in the guest; one conftest for pytest on the host and in there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from tests.vm.guest_role import GuestRole
from tests.vm.host_role import HostRole
from tests.vm.marking import MarkerError, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.desktop_2010 import Desktop
    from tests.vm.systemd import Systemd

# Not test files, and full of assertions.
pytest.register_assert_rewrite(*(f"tests.vm.{name}" for name in ("bystanders", "desktop_2010", "guarded", "living")))

HOST_TESTS = Path(__file__).parent / "host"
GUEST = os.environ.get("SLICEMGR_VM_GUEST")
RECORD = "SLICEMGR_VM_RECORD"
BENCH = "SLICEMGR_VM_BENCH"

# Recordings are made anew when somebody wants them (5 minutes), and played by tests/unit/test_episodes.py every time.
# So are figures.
ON_REQUEST = {RECORD: "test_episodes.py", BENCH: "test_pacing_bench.py"}
collect_ignore = [] if GUEST else [name for variable, name in ON_REQUEST.items() if not os.environ.get(variable)]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm(users, swap, timeout): runs in the guest, see tests/vm/README.md")
    config.pluginmanager.register(GuestRole(Path(GUEST)) if GUEST else HostRole(config))


def pytest_itemcollected(item: pytest.Item) -> None:
    if HOST_TESTS not in item.path.parents:
        item.add_marker("vm")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per user. The ids must not depend on the role: they are how host and guest name a test."""
    if HOST_TESTS in Path(metafunc.definition.path).parents:
        return
    try:
        request = Request.from_marks(mark.kwargs for mark in metafunc.definition.iter_markers("vm"))
    except MarkerError as error:
        pytest.fail(str(error), pytrace=False)
    metafunc.parametrize("vm_user", request.users, indirect=True)


@pytest.fixture(autouse=True)
def vm_user(request: pytest.FixtureRequest) -> str:
    """The user who runs this test: "root" or "tester"."""
    return cast("str", getattr(request, "param", ""))


@pytest.fixture
def vm_files() -> Path:
    """A folder whose files are on the host after the boot, beside the console and the journal."""
    assert GUEST is not None
    return Path(GUEST) / "files"


@pytest.fixture
def systemd(vm_user: str) -> Systemd:
    """The service manager of the user who runs the test: the system's for root, tester's own for tester."""
    from tests.vm.systemd import Systemd

    return Systemd(user=vm_user != "root")


@pytest.fixture
def desktop(systemd: Systemd) -> Iterator[Desktop]:
    """The session of 2010 stands by; the test fails if any of it is harmed."""
    from tests.vm.desktop_2010 import standing_by

    with standing_by(systemd) as session:
        yield session
