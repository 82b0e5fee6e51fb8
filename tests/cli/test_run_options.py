# SPDX-License-Identifier: LGPL-2.1-or-later
"""The options of `slicemgr run`: the light reader and argparse agree, and what is not well-formed is argparse's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.cli.run_options import RunOptions, read_options
from slicemgr.cli.run_parser import parse


def shown(options: RunOptions) -> dict[str, object]:
    """All that was read. argparse of some Pythons takes the `--` away, so the command is without it."""
    read = {name: getattr(options, name) for name in RunOptions.__slots__}
    command = options.command
    read["command"] = command[1:] if command[:1] == ["--"] else command
    return read


# What is well-formed, and what of it is not as by default.
GOOD: list[tuple[list[str], dict[str, object]]] = [
    (["true"], {"command": ["true"]}),
    (["--", "true"], {"command": ["true"]}),
    ([], {}),
    (["--"], {}),
    ([""], {"command": [""]}),
    (["--max", "1G", "--", "make", "-j4"], {"max": "1G", "command": ["make", "-j4"]}),
    (["--max", "1G", "make", "-j4", "--max", "2G"], {"max": "1G", "command": ["make", "-j4", "--max", "2G"]}),
    (["--max=1G", "--high=900M", "true"], {"max": "1G", "high": "900M", "command": ["true"]}),
    (["--max=", "true"], {"max": "", "command": ["true"]}),
    (["--max", "", "true"], {"max": "", "command": ["true"]}),
    (["--max=-1", "true"], {"max": "-1", "command": ["true"]}),
    (["--name", "a b", "true"], {"name": "a b", "command": ["true"]}),
    (["--name=a=b", "true"], {"name": "a=b", "command": ["true"]}),
    (["--max", "1G", "--max", "2G", "true"], {"max": "2G", "command": ["true"]}),
    (["--swap-max", "0", "--slice", "ci", "true"], {"swap_max": "0", "slice": "ci", "command": ["true"]}),
    (["--json", "/dev/null", "--backend", "embedded", "--", "--", "x"], {"json": "/dev/null", "backend": "embedded", "command": ["--", "x"]}),
    (["--backend=systemd", "sh", "-c", "exit 7"], {"backend": "systemd", "command": ["sh", "-c", "exit 7"]}),
    (["--", "echo", "--help"], {"command": ["echo", "--help"]}),
    (["--no-pacing", "make"], {"pacing": False, "command": ["make"]}),
    (["--no-tokens", "--no-relaunch", "--", "make"], {"tokens": False, "relaunch": False, "command": ["make"]}),
    (["--no-pacing", "--no-pacing", "make", "--no-tokens"], {"pacing": False, "command": ["make", "--no-tokens"]}),
    (["--never-hold", "ctest", "--never-hold=*_test", "make"], {"never_hold": ["ctest", "*_test"], "command": ["make"]}),
    (["--never-hold=", "make"], {"never_hold": [""], "command": ["make"]}),
    (["--never-hold=-x", "make"], {"never_hold": ["-x"], "command": ["make"]}),
    (["--retry", "2", "make"], {"retry": "2", "command": ["make"]}),
    (["--retry=x", "--retry=", "make"], {"retry": "", "command": ["make"]}),
    (["--profile", "agent", "--", "claude"], {"profile": "agent", "command": ["claude"]}),
    (["--profile=agent", "--profile=build", "make"], {"command": ["make"]}),
    (["--max", "1G", "--no-pacing", "--json", "x", "make"], {"max": "1G", "pacing": False, "json": "x", "command": ["make"]}),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "given_ones"), GOOD, ids=[" ".join(row[0]) or "nothing" for row in GOOD])
def test_both_read_the_same(arguments: list[str], given_ones: dict[str, object]) -> None:
    """One row, by both; what is not given is as in a fresh RunOptions."""
    light = read_options(arguments)
    assert light is not None
    assert shown(light) == {**shown(RunOptions()), **given_ones}
    if arguments[-3:] != ["--", "--", "x"]:  # Pythons differ in how many of these they take away.
        assert shown(light) == shown(parse(arguments))


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-h"], ["--maxi", "1G", "true"], ["--max"], ["--max", "--", "true"], ["--max", "-1", "true"],
     ["--backend", "magic", "true"], ["--backend=", "true"], ["-x"], ["-", "true"], ["--name", "--json"], ["--=x"],
     ["--profile", "foo", "true"], ["--profile=", "true"], ["--profile"], ["--retry"], ["--retry", "-1", "true"],
     ["--never-hold"], ["--never-hold", "--", "true"], ["--no-pacing=yes", "true"], ["--no-pac", "true"], ["--pacing", "true"],
     ["--no-tokens=", "true"]],
    ids=" ".join,
)  # fmt: skip
def test_the_rest_is_for_argparse(arguments: list[str]) -> None:
    """Help, and whatever needs a word said about it."""
    assert read_options(arguments) is None


WORDS = [
    "--max",
    "--max=1G",
    "--high",
    "--json",
    "--backend",
    "embedded",
    "--no-pacing",
    "--no-relaunch",
    "--never-hold",
    "--never-hold=ctest",
    "--retry",
    "--profile",
    "agent",
    "1G",
    "--",
    "make",
    "-j4",
    "",
    "--help",
    "-x",
]


@given(st.lists(st.sampled_from(WORDS), max_size=6))
def test_what_the_light_one_reads_argparse_reads_too(arguments: list[str]) -> None:
    """Never an answer where argparse has none, and never another one."""
    light = read_options(arguments)
    if light is not None and light.command[:2] != ["--", "--"]:
        assert shown(light) == shown(parse(arguments))
