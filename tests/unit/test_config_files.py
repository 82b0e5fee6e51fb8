# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files: which of them count, how they merge, where each value stands, and what can be wrong with a file."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.config import Tree, files

HIGH_MIDDLE_LOW = ("home", "etc", "usr")


def tree(root: Path, contents: dict[str, str | None]) -> Tree:
    """Load from three directories that hold `contents`; None is a link to /dev/null."""
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.symlink_to("/dev/null")
        else:
            path.write_text(text)
    return files.load([root / each for each in HIGH_MIDDLE_LOW])


MAIN, DROP_IN = "slicemgr.toml", "slicemgr.toml.d"


@pytest.mark.parametrize(
    ("contents", "values"),
    [
        ({}, {}),
        # The main file: the highest alone.
        ({f"usr/{MAIN}": "a = 1"}, {"a": 1}),
        ({f"usr/{MAIN}": "a = 1\nb = 1", f"etc/{MAIN}": "a = 2"}, {"a": 2}),
        ({f"usr/{MAIN}": "a = 1", f"home/{MAIN}": "a = 3", f"etc/{MAIN}": "a = 2"}, {"a": 3}),
        ({f"usr/{MAIN}": "a = 1", f"etc/{MAIN}": ""}, {}),
        ({f"usr/{MAIN}": "a = 1", f"etc/{MAIN}": "  \n"}, {}),
        ({f"usr/{MAIN}": "a = 1", f"etc/{MAIN}": None}, {}),
        # Drop-ins: all of them, above the main file, wherever either is.
        ({f"home/{MAIN}": "a = 1\nb = 1", f"usr/{DROP_IN}/10-x.toml": "a = 2"}, {"a": 2, "b": 1}),
        ({f"usr/{DROP_IN}/20-x.toml": "a = 20", f"etc/{DROP_IN}/10-x.toml": "a = 10\nb = 10"}, {"a": 20, "b": 10}),
        ({f"etc/{DROP_IN}/9.toml": "a = 9", f"etc/{DROP_IN}/10.toml": "a = 10"}, {"a": 9}),
        # One name: the higher directory, and what masks.
        ({f"usr/{DROP_IN}/x.toml": "a = 1\nb = 1", f"etc/{DROP_IN}/x.toml": "a = 2"}, {"a": 2}),
        ({f"usr/{DROP_IN}/x.toml": "a = 1", f"home/{DROP_IN}/x.toml": None}, {}),
        ({f"usr/{DROP_IN}/x.toml": "a = 1", f"home/{DROP_IN}/x.toml": ""}, {}),
        ({f"usr/{DROP_IN}/x.toml": None, f"home/{DROP_IN}/x.toml": "a = 1"}, {"a": 1}),
        # What is no configuration.
        ({f"etc/{DROP_IN}/.x.toml": "a = 1", f"etc/{DROP_IN}/x.toml~": "a = 2", f"etc/{DROP_IN}/x.conf": "a = 3"}, {}),
        # Key by key, in tables as well; a list is one value; a value replaces a table and a table a value.
        ({f"etc/{MAIN}": "[t.u]\na = 1\nb = [1, 2]", f"etc/{DROP_IN}/x.toml": "[t.u]\nb = [3]"}, {"t": {"u": {"a": 1, "b": [3]}}}),
        ({f"etc/{MAIN}": "[t.u]\na = 1", f"etc/{DROP_IN}/x.toml": "t = 2"}, {"t": 2}),
        ({f"etc/{MAIN}": "t = 2", f"etc/{DROP_IN}/x.toml": "[t.u]\na = 1"}, {"t": {"u": {"a": 1}}}),
        ({f"etc/{MAIN}": "a.b.c = {d = 1, e = 2}", f"etc/{DROP_IN}/x.toml": "a.b.c = {d = 3}"}, {"a": {"b": {"c": {"d": 3}}}}),
        # A mark that some editors put at the beginning, and the line ends of another system.
        ({f"etc/{MAIN}": "\ufeffa = 1\r\nb = 2\r\n"}, {"a": 1, "b": 2}),
    ],
)  # fmt: skip
def test_precedence(tmp_path: Path, contents: dict[str, str | None], values: dict[str, Any]) -> None:
    """As systemd's "Configuration directories and precedence"."""
    loaded = tree(tmp_path, contents)
    assert loaded.errors == ()
    assert loaded.values == values


def test_the_origin_is_that_of_the_value_that_won(tmp_path: Path) -> None:
    """File and line, for tables too; a key that is nowhere has that of the table around it."""
    loaded = tree(
        tmp_path,
        {
            f"etc/{MAIN}": "# first\n[slice.build]\ncpu_weight = 1\nio_weight = 1\n",
            f"usr/{DROP_IN}/x.toml": "\nslice.build.cpu_weight = 2\n",
        },
    )
    assert str(loaded.origin(("slice", "build", "cpu_weight"))) == f"{tmp_path}/usr/{DROP_IN}/x.toml:2"
    assert str(loaded.origin(("slice", "build", "io_weight"))) == f"{tmp_path}/etc/{MAIN}:4"
    assert str(loaded.origin(("slice", "build", "grace"))) == f"{tmp_path}/usr/{DROP_IN}/x.toml:2"
    assert loaded.origin(("machine", "swap_free")) is None
    assert loaded.files == (f"{tmp_path}/etc/{MAIN}", f"{tmp_path}/usr/{DROP_IN}/x.toml")


LINES = '''\
top = 1
"quoted key" = 2 # a = 3
dotted . 'parts'."\\u0041" = 3

[slice.build]   # [comment]
text = """
memory_max = "not a key"
[not.a.table]
""""
memory_max = \'\'\'
x = 1\'\'\'
list = [
  "[slice.app]", # ]
  {inner = 1},
  [2, 3],
]
quotes = ["""a"""", "["]
after = true
[ slice . "my.own" ]
when = 2010-02-01 10:00:00
inline = { a = 1, b = "}", "c" = [1, 2], d.e = { f = 2 } }
[[many]]
in_many = 1
  [machine]
\tindented=1.5
'''


def test_lines_of_keys() -> None:
    """Tables, dotted and quoted keys, strings and lists over many lines, inline tables."""
    loaded = files.load_text(LINES.encode(), "F")
    assert loaded.errors == ()
    lines = {".".join(key): origin.line for key, origin in loaded.origins.items()}
    assert lines == {
        "top": 1,
        "quoted key": 2,
        "dotted": 3,
        "dotted.parts": 3,
        "dotted.parts.A": 3,
        "slice": 5,
        "slice.build": 5,
        "slice.build.text": 6,
        "slice.build.memory_max": 10,
        "slice.build.list": 12,
        "slice.build.quotes": 17,
        "slice.build.after": 18,
        "slice.my.own": 19,
        "slice.my.own.when": 20,
        "slice.my.own.inline": 21,
        "many": 22,
        "machine": 24,
        "machine.indented": 25,
    }


def test_lines_of_keys_in_inline_tables() -> None:
    """As people write a small slice."""
    loaded = files.load_text(b"\nslice = { build = { memory_max = [\n1] }, app = {}, 'x' = 2 }\nafter = 1", "F")
    assert {".".join(key): origin.line for key, origin in loaded.origins.items()} == {
        "slice": 2,
        "slice.build": 2,
        "slice.build.memory_max": 2,
        "slice.app": 3,
        "slice.x": 3,
        "after": 4,
    }


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"a = 1\nmemory_max = 8G\n", 'F:2:15: Expected newline or end of document after a statement; try quotes, as in kind = "build"'),
        (b"kind = build", 'F:1:8: Invalid value; try quotes, as in kind = "build"'),
        (b"[a]\n[a]\n", "F:2:3: Cannot declare ('a',) twice; try a line for it only once"),
        (b"a = 1\na = 2", "F:2: Cannot overwrite a value; try a line for it only once"),
        (b'a = "x\n', None),
        (b"a = 1\nb = '\xff'\n", "F:2: not UTF-8; try 'iconv -t UTF-8' on it"),
        (b"a = " + b"9" * 5000, "F: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; try a file that is a configuration"),
        (b"a = " + b"[" * 5000, None),
        (b"a = 1\n" * 200_000, "F: larger than 1 MiB; try a file that is a configuration"),
        (b"\x00", None),
    ],
)  # fmt: skip
def test_texts_that_are_no_configuration(content: bytes, error: str | None) -> None:
    """One line with the place, that ends in what to try. None: in tomli's words, which differ."""
    loaded = files.load_text(content, "F")
    assert loaded.values == {}
    (line,) = loaded.errors
    assert line.startswith("F:")
    assert "; try " in line
    assert line.isprintable()
    assert error is None or line == error


@given(st.binary(max_size=60) | st.text(alphabet="ab.=[]{}\"'\\\n#, 1", max_size=60).map(str.encode))
def test_never_fails_otherwise(content: bytes) -> None:
    """Whatever stands in a file: values with an origin, or one line."""
    loaded = files.load_text(content, "F")
    assert len(loaded.errors) <= 1
    assert not loaded.values or not loaded.errors
    assert all((key,) in loaded.origins for key in loaded.values)


@given(
    st.recursive(
        st.dictionaries(st.text("ab-_ .\"'\\é\x01", max_size=3), st.integers(0, 9), min_size=1, max_size=3),
        lambda inner: st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, min_size=1, max_size=3),
        max_leaves=4,
    )
)
def test_every_key_is_found_on_its_line(table: dict[str, Any]) -> None:
    """Keys that are written one to a line, with all the quoting there is."""
    from slicemgr.config import Key, key_text

    def leaves(inner: dict[str, Any], above: Key) -> list[Key]:
        found = []
        for name, value in inner.items():
            found += leaves(value, (*above, name)) if isinstance(value, dict) else [(*above, name)]
        return found

    keys = leaves(table, ())
    loaded = files.load_text("".join(f"{key_text(key)} = 1\n" for key in keys).encode(), "F")
    assert loaded.errors == ()
    for line, key in enumerate(keys, 1):
        if len(key) <= 3:
            assert loaded.origins[key].line == line


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    """Each is one line; the others are read all the same."""
    drop_ins = tmp_path / "etc" / DROP_IN
    drop_ins.mkdir(parents=True)
    (drop_ins / "1.toml").mkdir()
    (drop_ins / "2.toml").symlink_to("nowhere")
    os.mkfifo(drop_ins / "3.toml")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(drop_ins)  # A socket's path has at most 107 bytes.
        server.bind("4.toml")
        os.chdir(here)
    (drop_ins / "5.toml").symlink_to("5.toml")
    (drop_ins / "6\x1b.toml").write_text("a = 8G")
    (drop_ins / "7.toml").write_text("a = 1")
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr" / DROP_IN).write_text("")
    loaded = tree(tmp_path, {})
    assert loaded.values == {"a": 1}
    assert [line.replace(f"{tmp_path}/", "") for line in loaded.errors] == [
        f"usr/{DROP_IN}: can't be listed: Not a directory; try 'ls -ld {tmp_path}/usr/{DROP_IN}'".replace(
            f"{tmp_path}/", ""
        ),
        f"etc/{DROP_IN}/1.toml: can't be read: Is a directory; try 'ls -l etc/{DROP_IN}/1.toml'",
        f"etc/{DROP_IN}/2.toml: a link to nowhere; try /dev/null as its target to mask a file",
        f"etc/{DROP_IN}/3.toml: can't be read: Not a regular file; try 'ls -l etc/{DROP_IN}/3.toml'",
        f"etc/{DROP_IN}/4.toml: can't be read: No such device or address; try 'ls -l etc/{DROP_IN}/4.toml'",
        f"etc/{DROP_IN}/5.toml: can't be read: Too many levels of symbolic links; try 'ls -l etc/{DROP_IN}/5.toml'",
        f'etc/{DROP_IN}/6\\x1b.toml:1:6: Expected newline or end of document after a statement; try quotes, as in kind = "build"',
    ]


def test_files_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not taken for missing: the file below it was not meant to count. root may read everything, so it is played."""
    loaded = tree(tmp_path, {f"etc/{MAIN}": "a = 1", f"usr/{MAIN}": "a = 2", f"etc/{DROP_IN}/1.toml": "a = 3"})
    forbidden = str(tmp_path / "etc")

    def refusing(call: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(path: Any, *arguments: Any, **more: Any) -> Any:
            if str(path).startswith(forbidden):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return call(path, *arguments, **more)

        return refuse

    for name in ("open", "listdir", "lstat"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    loaded = tree(tmp_path, {})
    assert loaded.values == {}
    assert all("Permission denied; try 'ls -l" in line for line in loaded.errors)
    assert len(loaded.errors) == 2


def test_a_main_file_that_can_not_be_read_hides_those_below(tmp_path: Path) -> None:
    """What the administrator wanted is unknown, so what the vendor wanted does not count either."""
    (tmp_path / "etc" / MAIN).mkdir(parents=True)
    loaded = tree(tmp_path, {f"usr/{MAIN}": "a = 1"})
    assert loaded.values == {}
    assert len(loaded.errors) == 1


def test_a_file_alone(tmp_path: Path) -> None:
    """As --check reads it: here a file that is not there is an error."""
    path = tmp_path / "x.toml"
    assert files.load_file(path).errors == (f"{path}: no such file; try another path",)
    path.write_text("a = 1")
    assert files.load_file(path).values == {"a": 1}
    below = path / "y.toml"
    assert files.load_file(below).errors == (f"{below}: can't be read: Not a directory; try 'ls -l {below}'",)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({"HOME": "/home/u"}, "/home/u/.config/slicemgr"),
        ({"HOME": "/home/u", "XDG_CONFIG_HOME": ""}, "/home/u/.config/slicemgr"),
        ({"HOME": "/home/u", "XDG_CONFIG_HOME": "/c"}, "/c/slicemgr"),
        ({"HOME": "/home/u", "XDG_CONFIG_HOME": "relative"}, "/home/u/.config/slicemgr"),
        ({"XDG_CONFIG_HOME": "/c"}, "/c/slicemgr"),
        ({}, None),
        ({"HOME": "relative"}, None),
        (None, None),
    ],
)
def test_directories(environment: dict[str, str] | None, first: str | None) -> None:
    """The user's own above the machine's; that of the system manager has no user."""
    machine = ["/etc/slicemgr", "/run/slicemgr", "/usr/local/lib/slicemgr", "/usr/lib/slicemgr"]
    assert [str(each) for each in files.directories(environment)] == ([first] if first else []) + machine


def test_tomli_is_not_loaded_without_a_file(tmp_path: Path) -> None:
    """Most machines have none, and the service holds what it has loaded for ever."""
    code = (
        "import sys, pathlib; from slicemgr.config import files, schema\n"
        "schema.read(files.load([pathlib.Path(sys.argv[1])])); print('tomli' in sys.modules, 'difflib' in sys.modules)"
    )

    def loaded() -> str:
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        return done.stdout

    assert loaded() == "False False\n"
    (tmp_path / MAIN).write_text("")
    assert loaded() == "False False\n"
    (tmp_path / MAIN).write_text("[machine]\n")
    assert loaded() == "True False\n"
