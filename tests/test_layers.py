# SPDX-License-Identifier: LGPL-2.1-or-later
"""The floors and the nevers of docs/architecture.md, read from the imports."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "slicemgr"

# Which rooms a room may import from; itself always. An import goes down, never sideways, never up.
FLOORS = {
    "__init__": set(),
    "__main__": {"cli"},
    "model": set(),
    "policy": {"model"},
    "config": {"model"},
    "kernel": {"model"},
    "bus": {"model"},
    "build": {"model"},
    "placement": {"model", "policy", "kernel"},
    "service": {"__init__", "model", "policy", "config", "kernel", "bus", "build", "placement"},
    "cli": {"__init__", "model", "policy", "config", "kernel", "bus", "build", "placement", "service"},
}

PURE = {"__future__", "dataclasses", "enum", "typing", "collections.abc", "math", "bisect"}

# (module, or its first part) -> the only files that may import it.
ONLY_IN = {
    "gi": {
        f"bus/{name}.py"
        for name in (
            "client",
            "context",
            "control",
            "glib_errors",
            "interface",
            "listening",
            "own_name",
            "server",
            "session_client",
            "values",
        )
    },
    "pydbus": {"bus/context.py", "bus/control.py", "bus/server.py"},
    "tomli": {"config/files.py"},
    "psutil": {"kernel/procfs.py"},
    "ctypes": {"kernel/syscalls.py"},
}

# Rooms that read the environment or the arguments; everyone else is handed values.
READS_ENVIRONMENT = {"cli"}


class Import(NamedTuple):
    """`importer` (a path below slicemgr/) imports `module`."""

    importer: str
    module: str

    @property
    def room(self) -> str:
        return self.importer.partition("/")[0].removesuffix(".py")


def _sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _imports() -> Iterator[Import]:
    for path in _sources():
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from (Import(name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: relative imports hide the floor"
                if node.module in {"slicemgr", *(f"slicemgr.{room}" for room in FLOORS)}:
                    # `from slicemgr.kernel import procfs`: the room is what counts; `from slicemgr import __version__`.
                    yield from (Import(name, f"{node.module}.{alias.name}") for alias in node.names)
                else:
                    yield Import(name, node.module or "")


IMPORTS = list(_imports())
OURS = [each for each in IMPORTS if each.module.partition(".")[0] == "slicemgr"]


def test_every_room_has_a_floor() -> None:
    """A new room needs a line in the table, and a reason for it."""
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in _sources()}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("edge", OURS, ids=lambda edge: f"{edge.importer}->{edge.module}")
def test_imports_go_down(edge: Import) -> None:
    """Never sideways between neighbours, never up."""
    target = (*edge.module.split("."), "__init__")[1]
    target = target if target in FLOORS else "__init__"
    assert target == edge.room or target in FLOORS[edge.room]


def test_model_and_policy_are_pure() -> None:
    """No os, time, random, logging, asyncio or psutil: time comes in as an argument."""
    foreign = [each for each in IMPORTS if each.room in {"model", "policy"} and each not in OURS]
    assert {each.module for each in foreign} <= PURE, foreign


def test_foreign_libraries_have_one_home() -> None:
    """pydbus and gi will live in bus/, tomli in config/files.py."""
    for each in IMPORTS:
        library = each.module.partition(".")[0]
        assert library not in ONLY_IN or each.importer in ONLY_IN[library], each


def test_the_kill_path_is_on_its_own() -> None:
    """service/guard.py knows no placement, no bus, no configuration, and no logging."""
    modules = {each.module for each in IMPORTS if each.importer == "service/guard.py"}
    for forbidden in ("slicemgr.placement", "slicemgr.bus", "slicemgr.config", "slicemgr.cli", "logging"):
        assert not [module for module in modules if module.startswith(forbidden)]


def test_the_kernel_floor_never_waits() -> None:
    """No asyncio, no sleep, no logging below the service; fork and exec have no subprocess; one thread, for poll(2)."""
    modules = {(each.importer, each.module.partition(".")[0]) for each in IMPORTS if each.room == "kernel"}
    forbidden = {"asyncio", "threading", "logging", "subprocess", "concurrent"}
    assert {each for each in modules if each[1] in forbidden} == {("kernel/pressure.py", "threading")}
    for path in (PACKAGE / "kernel").glob("*.py"):
        assert "sleep" not in {
            node.attr for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Attribute)
        }


def test_nobody_imports_the_command_line() -> None:
    """But __main__ and its own verbs."""
    assert {each.room for each in OURS if each.module.startswith("slicemgr.cli")} <= {"cli", "__main__"}


def test_only_the_command_line_reads_the_environment() -> None:
    """`os.environ`, `os.getenv` and `sys.argv` stand in one place."""
    for path in _sources():
        name = path.relative_to(PACKAGE).as_posix()
        attributes = {node.attr for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Attribute)}
        if attributes & {"environ", "getenv", "argv"}:
            assert name.partition("/")[0] in READS_ENVIRONMENT, name


def test_no_drawers() -> None:
    """If the only name found is util, there are two modules in it."""
    names = {path.stem for path in _sources()}
    assert not names & {"util", "utils", "helper", "helpers", "manager", "common", "misc"}


def test_files_fit_in_one_sitting() -> None:
    """300 lines: above that there are two rooms in one."""
    long = {path.name: lines for path in _sources() if (lines := len(path.read_text().splitlines())) > 300}
    assert not long


def test_the_picture_shows_every_room() -> None:
    """docs/architecture.md lists each file with code, and no other."""
    picture = (PACKAGE.parent / "docs/architecture.md").read_text()
    drawn = set(re.findall(r"^    slicemgr/(\S+\.py) ", picture, re.MULTILINE))
    inner = {path.relative_to(PACKAGE).as_posix() for path in _sources()}
    assert drawn == inner - {f"{room}/__init__.py" for room in FLOORS if room != "cli"}
