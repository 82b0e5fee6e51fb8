# SPDX-License-Identifier: LGPL-2.1-or-later
"""By what a step is recognised when the build runs again: what it makes, as its command line names it.

Not the whole command line: another `-O2` is still the same step, and temporary names differ at each run. gcc hands cc1
a `-o /tmp/ccy5ZJRx.s`, and beside it tells what its dumps are named by, which since gcc 11 is the output of the whole
call (`-dumpdir obj/ -dumpbase foo-x.cc` for `g++ -c src/x.cc -o obj/foo-x.o`), before that `-auxbase-strip`.

Opens no file. A linker that is told all in a response file (`ld @/tmp/ccE6XUlA`, for whoever calls `gcc @args`) is one
step with all others of its directory.
"""

import re
from collections.abc import Sequence
from typing import Final

from slicemgr.model.step import StepSignature

LONGEST: Final = 200
"""Characters of a program or of what it makes; of a longer one there is the beginning, and a hash of all."""

_HASH_BYTES: Final = 8

_MOST_WORDS: Final = 2000
"""Options are looked for among so many: a linker of ten thousand objects is told first what to make of them."""

_INTERPRETERS: Final = frozenset(
    {
        "python",
        "pypy",
        "perl",
        "ruby",
        "node",
        "nodejs",
        "deno",
        "bun",
        "java",
        "php",
        "lua",
        "luajit",
        "tclsh",
        "Rscript",
    }
    | {"guile", "sbcl", "erl", "beam.smp", "mono", "dotnet", "sh", "bash", "dash", "zsh", "ksh", "fish", "awk", "gawk"}
)
"""What comes after is the script's own: its -o may be anything."""

_PREPROCESSORS: Final = re.compile(r"cc1(plus|obj|objplus)?|clang(\+\+)?(-[0-9.]+)?")
"""Names of those that only preprocess with -E; the drivers that call them compute nothing."""

_TEMPORARY: Final = re.compile(
    r"""@?/ (?: .*/ )? (?:
          cc [A-Za-z0-9]{6} (?: \. [^/]* )?           # gcc: /tmp/ccy5ZJRx.s, /tmp/cc2hVThy.ltrans0.o
        | rustc [A-Za-z0-9]{6} (?: / .* )?            # rustc: /tmp/rustcPzIYsM/symbols.o
        | [^/]* tmp \. [A-Za-z0-9]{6,} (?: \. [^/]* )? # mktemp: /tmp/tmp.Jw0ybXwsjq; ccache: cpp_stdout.tmp.6mEuVd.ii
        | tmp [a-z0-9_]{8} (?: \. [^/]* )?            # Python: /tmp/tmpq3v1_x0p
    ) | @?/ (?: var/ )? tmp/ [^/]* - [0-9a-f]{6} (?: \. [^/]* )?  # clang: /tmp/x-1a2b3c.o
    """,
    re.VERBOSE | re.DOTALL,
)
"""Names that are others the next time; of whole arguments."""

_NO_OUTPUT: Final = frozenset({"", "-", "/dev/null", "/dev/stdout"})


def kind_of(name: str, arguments: Sequence[str]) -> str:
    """Steps of a kind are expected to be alike. By its name, but a compiler that only preprocesses is of another one:
    below ccache cc1plus took 21 MB for that, and then 197 MB."""
    preprocesses = _PREPROCESSORS.fullmatch(name) is not None and "-E" in arguments[:_MOST_WORDS]
    return f"{name} -E" if preprocesses else name


def signature_of(arguments: Sequence[str], directory: str) -> StepSignature:
    """The signature of a process with these arguments (/proc/PID/cmdline) in this working directory. Never raises.

    13 us for a compiler, 50 ms for a megabyte of a hundred thousand words (tests/bench/learned.py).
    """
    name = arguments[0].rpartition("/")[2] if arguments else ""
    program = kind_of(name, arguments)
    stem = name.rstrip("0123456789.-")
    is_script = stem in _INTERPRETERS or name in _INTERPRETERS
    named = None if is_script else _named(stem, arguments[1 : _MOST_WORDS + 1], arguments[-1:])
    return StepSignature(_bounded(program), _bounded(_all(arguments[1:]) if named is None else named), directory)


def _named(stem: str, arguments: Sequence[str], last: Sequence[str]) -> str | None:
    """What a compiler, a linker or the like makes; None if its options do not tell."""
    if stem == "meinproc" and (cache := _value(arguments, "--cache")):
        return cache
    if crate := _value(arguments, "--crate-name"):
        return _crate(crate, arguments)
    for option in ("-o", "--output", "-auxbase-strip"):
        output = _value(arguments, option)
        if output is not None and not output.startswith("-") and _is_name(output):
            return output
    if (base := _value(arguments, "-dumpbase")) and _is_name(base):
        return (_value(arguments, "-dumpdir") or "") + base
    if source := _value(arguments, "-main-file-name"):
        # The name without its directory; the last argument has both.
        return next((each for each in last if each.endswith(source)), source)
    if stem == "meinproc" and arguments:
        return last[0]
    return None


def _crate(crate: str, arguments: Sequence[str]) -> str:
    """`serde_json-cd401c92ad7ab731 lib`: cargo's hash is of version, features and profile."""
    prefix = "extra-filename="
    extra = next((each for each in arguments if each.startswith((prefix, f"-C{prefix}"))), "").partition("=")[2]
    kind = "test" if "--test" in arguments else _value(arguments, "--crate-type") or ""
    return f"{crate}{extra} {kind}".rstrip()


def _value(arguments: Sequence[str], option: str) -> str | None:
    """What follows the option, as a word of its own or behind a `=`; None if it is not there."""
    try:
        at = arguments.index(option)
    except ValueError:
        if not option.startswith("--"):
            return None
        joined = f"{option}="
        return next((each[len(joined) :] for each in arguments if each.startswith(joined)), None)
    return arguments[at + 1] if at + 1 < len(arguments) else None


def _is_name(word: str) -> bool:
    """Whether it is the same the next time, and tells it from others."""
    return word not in _NO_OUTPUT and not _is_temporary(word)


def _is_temporary(word: str) -> bool:
    """Also as the value of an option: -fresolution=/tmp/cctJx2F2.res."""
    if word.startswith("-"):
        word = word.partition("=")[2]
    return word.startswith(("/", "@/")) and _TEMPORARY.fullmatch(word) is not None


def _all(arguments: Sequence[str]) -> str:
    return " ".join(each for each in arguments if not _is_temporary(each))


def _bounded(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    import hashlib  # 8 ms, for OpenSSL's: most builds need none.

    # surrogatepass: bytes that are no UTF-8, as os.fsdecode carries them, and whatever else a string can hold.
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).hexdigest()
    return f"{text[: LONGEST - len(digest) - 1]}…{digest}"
