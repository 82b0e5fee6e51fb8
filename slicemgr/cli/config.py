# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr config`: what holds, and where each value was set."""

import argparse
import enum
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from slicemgr.cli import OneLineParser
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.printable import complain, print_out, printable, say
from slicemgr.config import ConfigError, Key, Origin, Tree, files, key_text, schema, string_text
from slicemgr.config.schema import Config
from slicemgr.model.quantity import NoLimit, Percent
from slicemgr.model.spec import slice_unit_name

_PROG = "slicemgr config"

_BROKEN = 1
"""The files were found and can't be meant: not a usage error (2), and nothing that slicemgr failed at (125)."""

_DESCRIPTION = """\
Show the configuration that holds, merged from all files, as TOML that can be read back. Behind each value stands
where it was set. With KEY (slice.build, machine.swap_free) only that table or value."""

_EPILOG = """\
files, the higher first: ~/.config/slicemgr (--user only), /etc/slicemgr, /run/slicemgr, /usr/local/lib/slicemgr,
/usr/lib/slicemgr. Of each file slicemgr.toml the highest counts alone; above it come slicemgr.toml.d/*.toml of all
directories by file name, where a higher one masks a lower one of the same name. docs/configuration.md has the keys.

exit status: 0; 1 if a file can't be read or can't be meant, with a line for each error; 2 for a usage error.

example: slicemgr config --check ~/.config/slicemgr/slicemgr.toml"""

_WIDTH = 100
"""Columns for a list before it is broken: with the origin behind it a line fits most terminals."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One value of the merged configuration."""

    key: Key
    value: object
    """The model's; None: not set, so systemd's holds."""
    origin: Origin | None
    """None: the default."""
    adds: bool = False
    """The origin only added to the default."""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.check is not None and options.key is not None:
        parser.error("--check shows no KEY")
    if options.check is not None:
        return _check(options.check, as_json=options.json)
    tree = files.load(files.directories(os.environ if _for_user(options) else None))
    try:
        config = schema.read(tree)
    except ConfigError as error:
        complain(*error.lines)  # FILE:LINE first, as compilers do: editors find it.
        return _BROKEN
    entries = _chosen(list(_entries(config, tree)), options.key)
    if not entries:
        return _no_such_key(options.key, list(_entries(config, tree)))
    if options.json:
        return print_out(json.dumps(_as_data(entries), indent=2) + "\n", _PROG)
    heading = [] if options.key else _heading(tree)
    return print_out("\n".join([*heading, *_as_toml(entries)]) + "\n", _PROG)


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog=_PROG,
        usage="slicemgr config [--user | --system] [--json] [KEY]\n       slicemgr config --check FILE [--json]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    manager = parser.add_mutually_exclusive_group()
    manager.add_argument("--user", action="store_true", help="what holds for your own slices (default, but for root)")
    manager.add_argument("--system", action="store_true", help="what holds for the system's slices (root's default)")
    parser.add_argument("--json", action="store_true", help="as JSON, with what is not set as null")
    parser.add_argument(
        "--check", metavar="FILE", help="read FILE alone, and say what is wrong with it; - is the input"
    )
    parser.add_argument("key", nargs="?", metavar="KEY", help="a table or a value: slice.build, machine.swap_free")
    return parser


def _for_user(options: argparse.Namespace) -> bool:
    return options.user or (not options.system and os.geteuid() != 0)


def _check(name: str, *, as_json: bool) -> int:
    try:
        tree = files.load_text(_input(), name) if name == "-" else files.load_file(Path(name))
    except OSError as error:
        say(f"can't read the input: {error.strerror}; try a file", prog=_PROG)
        return ExitCode.USAGE
    errors: tuple[str, ...] = ()
    try:
        schema.read(tree)
    except ConfigError as error:
        errors = error.lines
        if not as_json:
            complain(*error.lines)  # FILE:LINE first, as compilers do: editors find it.
    if as_json:
        text = json.dumps({"file": printable(name), "errors": errors}, indent=2) + "\n"
        return print_out(text, _PROG) or bool(errors) * _BROKEN
    return _BROKEN if errors else print_out(f"{printable(name)}: fine\n", _PROG)


def _input() -> bytes:
    with open(0, "rb", closefd=False) as file:
        return file.read(files.LARGEST_BYTES + 1)


def _entries(config: Config, tree: Tree) -> Iterator[_Entry]:
    tables = tree.values.get("slice", {})
    names = {slice_unit_name(name): name for name in tables} if isinstance(tables, dict) else {}
    for spec in config.slices:
        written = names.get(spec.unit, spec.unit)
        for name, (field, _) in schema.SLICE_KEYS.items():
            key = ("slice", spec.unit.removesuffix(".slice"), name)
            origin = tree.origins.get(("slice", written, name))
            adds = name == "protect" and bool(schema.DEFAULTS[spec.kind].protect)
            yield _Entry(key, getattr(spec, field), origin, adds and origin is not None)
    for name, (field, _) in schema.MACHINE_KEYS.items():
        yield _Entry(("machine", name), getattr(config.machine, field), tree.origins.get(("machine", name)))
    for table, keys, spec_of_table in (
        ("pacing", schema.PACING_KEYS, config.pacing),
        ("notifications", schema.NOTIFICATION_KEYS, config.notifications),
    ):
        for name, (field, _) in keys.items():
            top = (table, name)
            yield _Entry(top, getattr(spec_of_table, field), tree.origins.get(top))


def _chosen(entries: list[_Entry], wanted: str | None) -> list[_Entry]:
    """Those at or below a key, written as TOML has it, or with the name of a slice unquoted."""
    if wanted is None:
        return entries
    return [each for each in entries if wanted in _names(each.key)]


def _names(key: Key) -> Iterator[str]:
    for end in range(1, len(key) + 1):
        yield key_text(key[:end])
        yield ".".join(key[:end])


def _no_such_key(wanted: str, entries: list[_Entry]) -> int:
    known = sorted({name for each in entries for name in _names(each.key)})
    near = get_close_matches(wanted, known, 1) or ["slice.build"]
    say(f"'{printable(wanted)}' is no key of the configuration; try {near[0]}", prog=_PROG)
    return ExitCode.USAGE


def _heading(tree: Tree) -> list[str]:
    if not tree.files:
        return ["# No configuration file was found: these are the defaults.", ""]
    return [
        "# Merged from these files, the later above the earlier:",
        *(f"#   {printable(each)}" for each in tree.files),
        "",
    ]


def _as_toml(entries: list[_Entry]) -> Iterator[str]:
    """Lines of TOML; a single value carries its whole key, so that it can be read back as well."""
    if len(entries) == 1:
        yield _line(key_text(entries[0].key), entries[0])
        return
    table: Key | None = None
    for each in entries:
        if each.key[:-1] != table:
            if table is not None:
                yield ""
            table = each.key[:-1]
            yield f"[{key_text(table)}]"
        if each.value is not None:
            yield _line(each.key[-1], each)


def _line(name: str, entry: _Entry) -> str:
    if entry.value is None:
        return f"# {name} is not set: systemd's own holds"
    origin = "default" if entry.origin is None else str(entry.origin)
    return f"{name} = {_value_text(_plain(entry))}  # {'default, and ' if entry.adds else ''}{origin}"


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return _list_text([string_text(each) for each in value])
    return string_text(value) if isinstance(value, str) else str(value)


def _list_text(texts: list[str]) -> str:
    lines = [""]
    for text in texts:
        if len(lines[-1]) + len(text) + 2 > _WIDTH:
            lines.append("")
        lines[-1] += f"{text}, "
    if len(lines) == 1:
        return f"[{lines[0].removesuffix(', ')}]"
    return "\n".join(["[", *(f"    {line.rstrip()}" for line in lines), "]"])


def _plain(entry: _Entry) -> Any:
    """The value as TOML has it: what the schema reads back is the same."""
    value = entry.value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Percent | NoLimit):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float):
        # %g keeps six figures and turns to 1e-05 below that: what it can't tell exactly stays TOML's own number.
        return f"{value:g}s" if float(f"{value:g}") == value and (value == 0 or value >= 0.0001) else value
    sizes = entry.key[-1].startswith(("memory_", "swap_", "session_")) or entry.key == ("pacing", "borrow")
    return _size(value) if sizes and isinstance(value, int) else value


def _size(size_bytes: int) -> str | int:
    """The largest suffix that tells it exactly; format_size() rounds."""
    for suffix, shift in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if size_bytes and size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift}{suffix}"
    return size_bytes


def _as_data(entries: list[_Entry]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for each in entries:
        table = data
        for part in each.key[:-1]:
            table = table.setdefault(part, {})
        value = each.value if isinstance(each.value, int | float) else _plain(each)
        origin = each.origin
        table[each.key[-1]] = {
            "value": value,
            "file": None if origin is None else printable(origin.path),
            "line": None if origin is None else origin.line,
        }
    return data
