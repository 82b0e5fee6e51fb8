# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real builds that do not fit: compilers and KDE's manuals, by each of the tools that people build with.

Each is run twice: with nothing known of its steps, and with all of it. Without pacing each of them loses steps.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cli.paced_run import MIB, PacedRun

COUNT = 5
CXX = "g++ -std=c++20 -O0 -c part%.cpp -o part%.o"
HEADERS = ["algorithm", "functional", "map", "memory", "regex", "string", "vector"]
MANUALS = Path("/usr/share/doc/HTML")
JOBS = [f"-j{COUNT}"]


@dataclass(frozen=True)
class Build:
    """How it is written, and what of it fits."""

    write: Callable[[Path], list[str]]
    """Its files into an empty folder; the answer is the command."""
    limit: str
    """Two of its steps fit, or three; never five."""
    needs: str
    makes: str
    """The glob of what is there when it has ended well."""
    options: list[str] = field(default_factory=list)


def sources(folder: Path) -> None:
    """Each takes g++ some 100 MB, and a second and a half, for its headers alone."""
    included = "".join(f"#include <{each}>\n" for each in HEADERS)
    for at in range(COUNT):
        (folder / f"part{at}.cpp").write_text(f"{included}int part{at}() {{ return {at}; }}\n")


def cxx(at: int) -> str:
    """The command of one compilation."""
    return CXX.replace("%", str(at))


def make_cxx(folder: Path) -> list[str]:
    """With make's usual rules."""
    sources(folder)
    (folder / "Makefile").write_text(f"all: {' '.join(f'part{at}.o' for at in range(COUNT))}\nCXXFLAGS=-std=c++20\n")
    return ["make", *JOBS]


def ninja_cxx(folder: Path) -> list[str]:
    """ninja knows no jobserver in Debian."""
    sources(folder)
    rules = "rule cxx\n  command = " + CXX.replace("part%.cpp", "$in").replace("part%.o", "$out") + "\n"
    edges = "".join(f"build part{at}.o: cxx part{at}.cpp\n" for at in range(COUNT))
    (folder / "build.ninja").write_text(rules + edges)
    return ["ninja", *JOBS]


def ccache_cxx(folder: Path) -> list[str]:
    """Below a wrapper that waits for its compiler; the cache is this folder's."""
    sources(folder)
    (folder / "Makefile").write_text(
        f"export CCACHE_DIR={folder}/ccache\nexport CCACHE_RECACHE=1\n"
        f"all: {' '.join(f'part{at}.o' for at in range(COUNT))}\n"
        f"part%.o: part%.cpp\n\tccache {CXX.replace('part%.cpp', '$<').replace('part%.o', '$@')}\n"
    )
    return ["make", *JOBS]


def script_cxx(folder: Path) -> list[str]:
    """Everything at once, by a shell."""
    sources(folder)
    begun = "".join(f'{cxx(at)} & all="$all $!"\n' for at in range(COUNT))
    (folder / "build.sh").write_text(f"{begun}for each in $all; do wait $each || exit 3; done\n")
    return ["sh", "build.sh"]


def xargs_cxx(folder: Path) -> list[str]:
    """As many at once as there are."""
    sources(folder)
    (folder / "parts").write_text("".join(f"{at}\n" for at in range(COUNT)))
    return ["xargs", "-a", "parts", "-P", str(COUNT), "-I%", *CXX.split()]


def cargo(folder: Path) -> list[str]:
    """A workspace of crates that do not need each other; nothing is fetched."""
    members = [f"crate{at}" for at in range(COUNT)]
    (folder / "Cargo.toml").write_text(f"[workspace]\nresolver = '2'\nmembers = {members}\n")
    for name in members:
        (folder / name / "src").mkdir(parents=True)
        (folder / name / "Cargo.toml").write_text(f"[package]\nname = '{name}'\nversion = '1.0.0'\nedition = '2021'\n")
        (folder / name / "src/lib.rs").write_text("use std::collections::BTreeMap;\n" + "".join(map(rust, range(12))))
    return ["cargo", "build", "--offline", "--quiet", *JOBS]


def rust(at: int) -> str:
    """A type, and a function that makes the compiler think about it."""
    return f"""
#[derive(Debug, Clone, PartialEq, PartialOrd)]
pub struct Item{at} {{ pub name: String, pub parts: Vec<Option<Box<u{8 << at % 4}>>> }}
pub fn told{at}(all: &[Item{at}]) -> String {{
    let mut by: BTreeMap<String, Vec<&Item{at}>> = BTreeMap::new();
    for each in all {{ by.entry(format!("{{each:?}}")).or_default().push(each); }}
    format!("{{by:?}}")
}}
"""


def manuals(folder: Path) -> list[str]:
    """The case of 2010."""
    found = sorted(MANUALS.glob("*/*/index.docbook"))[:COUNT]
    if len(found) < COUNT:
        pytest.skip("KDE's manuals are not here; try: apt install kdoctools5 kate5-data")
    rules = "".join(f"part{at}.bz2:\n\tmeinproc5 --check --cache $@ {each}\n" for at, each in enumerate(found))
    (folder / "Makefile").write_text(f"all: {' '.join(f'part{at}.bz2' for at in range(COUNT))}\n{rules}")
    return ["make", *JOBS]


BUILDS = {
    "make": Build(make_cxx, "250M", "g++", "part*.o"),
    "make, no tokens": Build(make_cxx, "250M", "g++", "part*.o", ["--no-tokens"]),
    "ninja": Build(ninja_cxx, "250M", "ninja", "part*.o"),
    "ccache": Build(ccache_cxx, "250M", "ccache", "part*.o"),
    "sh": Build(script_cxx, "250M", "g++", "part*.o"),
    "xargs": Build(xargs_cxx, "250M", "g++", "part*.o"),
    "cargo": Build(cargo, "330M", "cargo", "target/debug/libcrate*.rlib"),
    "manuals": Build(manuals, "220M", "meinproc5", "part*.bz2"),
}


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest) -> Build:
    """Each of them."""
    chosen = BUILDS[request.param]
    if shutil.which(chosen.needs) is None:
        pytest.skip(f"{chosen.needs} is not here; tests/run installs it")
    return chosen


def test_it_ends_and_nothing_is_killed(build: Build, tmp_path: Path) -> None:
    """All that it makes is there, some have waited, and what can't be reclaimed has stayed below the limit."""
    folder = tmp_path / "tree"
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        state = {"XDG_STATE_HOME": str(tmp_path / "state")}
        run = PacedRun(folder, *build.write(folder), limit=build.limit, options=build.options, environment=state)
        try:
            status = run.end()
        finally:
            run.close()
        assert (status, run.data["kills"]) == (0, []), run.told
        assert len([*folder.glob(build.makes)]) == COUNT
        told = run.data["pacing"]
        assert told["steps"] >= COUNT
        assert told["fattest"][0]["peak_bytes"] * COUNT > told["budget_bytes"], "it fits, so this shows nothing"
        assert 50 * MIB < told["peak_bytes"] <= told["budget_bytes"]
