# SPDX-License-Identifier: LGPL-2.1-or-later
"""What build systems keep of a launcher, and what is left of it when the job, or all of slicemgr, is gone."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.build.launcher import CMAKE_LAUNCHER, Launcher
from tests.service.launched_job import AGAIN, KILLED_ONCE, SYSTEM, WHY, Gate, Job, finished

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent

GENERATORS = {"Ninja": "ninja", "Unix Makefiles": "make"}

CMAKE_LISTS = """
cmake_minimum_required(VERSION 3.16)
project(x C CXX)
add_library(y STATIC y.c)
add_executable(x x.cc)
target_link_libraries(x y)
"""


def needs(program: str) -> None:
    if shutil.which(program, path=SYSTEM) is None:
        package = {"ninja": "ninja-build"}.get(program, program)
        pytest.skip(f"{program} is not here; try: sudo apt install {package}")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    if made.launcher is not None:
        made.launcher.close()


@pytest.fixture(params=["/bin/sh", "/bin/bash --posix"])
def any_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path, shell=request.param)
    yield made
    made.open().close()


@pytest.fixture(params=GENERATORS)
def generator(request: pytest.FixtureRequest) -> str:
    needs("cmake")
    needs(GENERATORS[request.param])
    return str(request.param)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "a source"
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(CMAKE_LISTS)
    (folder / "x.cc").write_text('extern "C" int y(); int main() { return y(); }\n')
    (folder / "y.c").write_text("int y(void) { return 0; }\n")
    return folder


def cache(folder: Path) -> dict[str, str]:
    lines = (folder / "CMakeCache.txt").read_text().splitlines()
    return {line.partition(":")[0]: line.partition("=")[2] for line in lines if ":" in line and line[:1].isupper()}


def hide_caches(job: Job) -> None:
    """As on a machine without ccache, whether this one has it or not."""
    job.open()._real.pop("ccache", None)
    job.open()._real.pop("sccache", None)


# CMake


def test_a_tree_of_cmakes_outlives_slicemgr(job: Job, source: Path, generator: str) -> None:
    """Configured and built in a job; then the job's directory and the links go, and it builds on."""
    hide_caches(job)
    done = job.run("cmake", "-G", generator, "-S", str(source), "-B", "a tree")
    assert done.returncode == 0, done.stderr
    kept = cache(job.folder / "a tree")
    assert kept["CMAKE_CXX_COMPILER"] == "/usr/bin/c++"
    for name in ("C_COMPILER", "CXX_COMPILER", "C_LINKER", "CXX_LINKER"):
        assert kept[f"CMAKE_{name}_LAUNCHER"] == CMAKE_LAUNCHER
    done = job.run("cmake", "--build", "a tree")
    assert done.returncode == 0, done.stdout + done.stderr
    job.open().close()
    shutil.rmtree(job.shims)
    assert not [
        path
        for path in (job.folder / "a tree").rglob("*")
        if path.is_file() and str(job.shims).encode() in path.read_bytes()
    ]
    for path in source.iterdir():
        path.touch()
    # Also with an environment that has outlived them (a terminal multiplexer's, say).
    for leaked in ({}, {"SLICEMGR_LAUNCHER": str(job.shims / "gone"), "SLICEMGR_JOB": str(job.folder / "job")}):
        done = job.outside("cmake", "--build", "a tree", "--clean-first", **leaked)
        assert done.returncode == 0, done.stdout + done.stderr
    assert job.outside(str(job.folder / "a tree/x")).returncode == 0


def test_a_step_in_a_tree_of_cmakes_is_run_again(job: Job, source: Path, generator: str) -> None:
    """Though it calls the compiler by an absolute path: by the launcher in its cache."""
    hide_caches(job)
    gate = Gate(source)
    (source / "x.cc").write_text('#include "gate.h"\nextern "C" int y(); int main() { return y(); }\n')
    assert job.run("cmake", "-G", generator, "-S", str(source), "-B", "tree").returncode == 0
    build = job.start("cmake", "--build", "tree")
    gate.kill(build, job.open())
    gate.let_go(build)
    done = finished(build)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{AGAIN}c++ " in done.stdout + done.stderr


def test_a_tree_that_is_there_is_not_built_anew(job: Job, source: Path, generator: str) -> None:
    """Configured without us, looked over again within a job: all its commands stay as they are."""
    hide_caches(job)
    assert job.outside("cmake", "-G", generator, "-S", str(source), "-B", "tree").returncode == 0
    assert job.outside("cmake", "--build", "tree").returncode == 0
    (source / "CMakeLists.txt").touch()
    program = job.folder / "tree/x"
    built = program.stat().st_mtime_ns
    for again in (
        ["cmake", "--build", "tree"],
        ["cmake", "tree"],
        ["cmake", "-S", str(source), "-B", "tree"],
        ["cmake", "-Btree", str(source)],
    ):
        assert job.run(*again).returncode == 0
        assert "LAUNCHER" not in (job.folder / "tree/CMakeCache.txt").read_text()
    assert job.run("cmake", "--build", "tree").returncode == 0
    assert program.stat().st_mtime_ns == built


def test_what_a_person_has_said_to_cmake_counts(job: Job, source: Path) -> None:
    """A launcher or a compiler of his own; and where ccache may be looked for, none of ours."""
    needs("cmake")
    hide_caches(job)
    command = ["cmake", "-S", str(source), "-B", "tree"]
    assert job.run(*command, CMAKE_CXX_COMPILER_LAUNCHER="env", CXX="g++").returncode == 0
    kept = cache(job.folder / "tree")
    assert (kept["CMAKE_CXX_COMPILER_LAUNCHER"], kept["CMAKE_C_COMPILER_LAUNCHER"]) == ("env", CMAKE_LAUNCHER)
    assert kept["CMAKE_CXX_COMPILER"] == "/usr/bin/g++"


def test_where_there_is_ccache_it_is_found(job: Job) -> None:
    """Many a project sets it as its launcher unless there is one."""
    job.tool("cmake", "#!/bin/sh\nenv | sed -n 's/^\\(CMAKE[A-Z_]*\\)=.*/\\1/p' | sort\n")
    job.tool("ccache", "#!/bin/sh\n")
    done = job.run("cmake", "-S", ".", "-B", "tree")
    assert done.stdout.split() == ["CMAKE_CXX_LINKER_LAUNCHER", "CMAKE_C_LINKER_LAUNCHER"]


@pytest.mark.parametrize(
    ("arguments", "in_path"),
    [(["-B", "tree"], False), (["--preset", "x"], False), (["--build", "."], True), (["--install", "."], True), (["-E", "env"], True), (["-P", "x"], True)],
)  # fmt: skip
def test_who_configures_does_not_see_us(job: Job, arguments: list[str], in_path: bool) -> None:
    """Who builds does: what it starts may call compilers by their names."""
    job.tool("cmake", '#!/bin/sh\necho "$PATH"; echo "$SLICEMGR_STEP"\n')
    path, step = job.run("cmake", *arguments).stdout.splitlines()
    assert (job.bin in path.split(":")) == in_path
    assert step == "", "no step: what is below it may well be run again"


# Paths that others keep


def test_a_kept_path_is_the_compiler_that_was_there(job: Job) -> None:
    """Outside of the job, with another $PATH or none: the same compiler as then. When that has gone, the next."""
    job.tool("cc", '#!/bin/sh\necho "ours: $#"\n')
    kept = f"{job.bin}/cc"
    job.open().close()
    assert job.outside(kept, "-c", "x.c").stdout == "ours: 2\n"
    assert job.outside(kept, "-c", "x.c", PATH="/nowhere").stdout == "ours: 2\n"
    (job.tools / "cc").unlink()
    done = job.outside(kept, "--version")
    assert done.returncode == 0
    assert "Free Software Foundation" in done.stdout


def test_the_same_compilers_are_one_directory(tmp_path: Path) -> None:
    """For each job after the first, and for jobs that start at once; others, or newer ones, are another."""
    job = Job(tmp_path)
    job.tool("gcc", "#!/bin/sh\n")
    script = (
        "import sys; from slicemgr.build.launcher import Launcher; sys.stdin.read(); "
        "l = Launcher(sys.argv[1], sys.argv[2], shims=sys.argv[3]); print(l.environment({})['SLICEMGR_LAUNCHER']); l.close()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / f"job{number}"), f"{job.tools}:{SYSTEM}", str(tmp_path / "shims")],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(8)
    ]  # fmt: skip
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    told = {process.communicate(timeout=60)[0] for process in started}
    assert [process.returncode for process in started] == [0] * 8
    assert len(told) == 1
    assert len(os.listdir(tmp_path / "shims")) == 1
    (place,) = (tmp_path / "shims").iterdir()
    assert not stat.S_IMODE(os.stat(place / "shim").st_mode) & 0o022

    def again() -> Path:
        launcher = Launcher(str(tmp_path / "more"), f"{job.tools}:{SYSTEM}", shims=str(tmp_path / "shims"))
        launcher.close()
        return Path(launcher.environment({})["SLICEMGR_LAUNCHER"]).parent

    assert again() == place
    os.utime(job.tools / "gcc", ns=(1 << 61, 1 << 61))
    newer = again()
    assert newer != place
    # ccache takes a compiler's age for what it is.
    assert (newer / "bin/gcc").stat().st_mtime_ns == 1 << 61


def test_where_nothing_can_be_made_is_an_error(tmp_path: Path) -> None:
    """One that names the place; and it leaves nothing half made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Launcher(str(tmp_path / "job"), SYSTEM, shims=str(tmp_path / "file/shims"))
    with pytest.raises(FileNotFoundError):
        Launcher(str(tmp_path / "no/job"), SYSTEM, shims=str(tmp_path / "shims"))
    assert not (tmp_path / "job").exists()


def test_the_end_of_a_job(job: Job) -> None:
    """Its directory goes, with marks of whoever has died; a mark after that is an OSError, a second end nothing."""
    launcher = job.open()
    assert stat.S_IMODE(os.stat(job.folder / "job").st_mode) == 0o700
    launcher.mark_killed([1, 2, 2, 3])
    assert job.marks("killed") == ["1", "2", "3"]
    (job.folder / "job/again/7").touch()
    assert launcher.is_again([5, 6, 7])
    assert not launcher.is_again([5, 6])
    assert not launcher.is_again([])
    launcher.close()
    launcher.close()
    assert not (job.folder / "job").exists()
    assert not launcher.is_again([7])
    with pytest.raises(FileNotFoundError):
        launcher.mark_killed([4])


# Others that stand before compilers


def test_ccache_between_us_and_the_compiler(job: Job) -> None:
    """As a directory in $PATH and by name: it takes the real compiler's age, and a killed step is run again."""
    needs("ccache")
    masquerade = "/usr/lib/ccache"
    (job.folder / "y.c").write_text("int y;\n")
    for path, command in [(f"{job.bin}:{masquerade}:{SYSTEM}", ["gcc"]), (f"{job.bin}:{SYSTEM}", ["ccache", "gcc"])]:
        job.run("ccache", "-C", "-z")
        assert job.run(*command, "-c", "y.c", PATH=path).returncode == 0
        done = job.outside(*command, "-c", "y.c", PATH=path.partition(":")[2], CCACHE_DIR=str(job.folder / "ccache"))
        assert done.returncode == 0, done.stderr
        told = job.run("ccache", "--print-stats").stdout
        assert "direct_cache_hit\t1\n" in told, told
    gate = Gate(job.folder)
    build = job.start("ccache", "g++", "-c", "x.cc")
    gate.kill(build, job.open())
    # ccache, as g++, reads the header for its hash or has the compiler read it: each time somebody opens it.
    gate.let_go(build)
    done = finished(build)
    assert done.returncode == 0, done.stderr


def test_cargo_is_told_of_metadata_once(job: Job) -> None:
    """A rustc that is killed after it has announced its metadata: cargo would panic at a second announcement."""
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("cargo is not here; try: sudo apt install cargo")
    rustc = subprocess.run([Path(cargo).with_name("rustc"), "--print", "sysroot"], capture_output=True, text=True)
    real = Path(rustc.stdout.strip()) / "bin/rustc"
    (job.folder / "Cargo.toml").write_text('[workspace]\nmembers = ["a", "b", "c"]\nresolver = "2"\n')
    for name, needed, text in [
        ("a", "", "pub fn a() -> i32 { 0 }"),
        ("b", "a", "pub fn b() -> i32 { a::a() }"),
        ("c", "b", "pub fn c() -> i32 { b::b() }"),
    ]:
        (job.folder / name / "src").mkdir(parents=True)
        (job.folder / name / "src/lib.rs").write_text(text)
        dependency = f'[dependencies]\n{needed} = {{ path = "../{needed}" }}\n' if needed else ""
        (job.folder / name / "Cargo.toml").write_text(
            f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n{dependency}'
        )
    # The real one to its end, and then it is killed; a and b once each.
    job.tool("rustc", f"""#!/bin/sh
case " $* " in *" --crate-name a "*) name=a ;; *" --crate-name b "*) name=b ;; *) exec "{real}" "$@" ;; esac
"{real}" "$@" || exit
[ -e "$COUNT.$name" ] && exit 0
: >"$COUNT.$name"
: >"$SLICEMGR_JOB/killed/$PPID"
kill -9 $$
""")  # fmt: skip
    kept = {name: os.environ[name] for name in ("RUSTUP_HOME", "CARGO_HOME", "HOME") if name in os.environ}
    done = job.run(cargo, "build", "--offline", RUSTC=str(job.tools / "rustc"), **kept)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"{AGAIN}rustc --crate-name ") == 2


TOLD = [
    '{"$message_type":"artifact","artifact":"/t/liba-1.rmeta","emit":"metadata"}',
    '{"$message_type":"diagnostic","message":"a \\n line","level":"warning"}',
    "no JSON at all: $HOME `x` \\t  two  spaces",
    '{"$message_type":"artifact","artifact":"/t/liba-1.rlib","emit":"link"}',
    "",
    "the last one",
]


@pytest.mark.parametrize(
    ("option", "again"), [("--json=a,artifacts,b", [*TOLD[1:]]), ("--json=diagnostic-short", TOLD)]
)
def test_nothing_else_is_kept_from_cargo(any_shell: Job, option: str, again: list[str]) -> None:
    """The second time rustc has the same arguments to the byte, and all it says but for the metadata is passed on."""
    (any_shell.folder / "told").write_text("\n".join(TOLD))
    any_shell.tool("rustc", KILLED_ONCE.replace("echo run", 'printf "<%s>\\n" "$@"; cat told >&2; echo run', 1))
    launcher = any_shell.environment()["SLICEMGR_LAUNCHER"]
    arguments = ["a  b", option, "", "*", "-C", "x=artifacts"]
    done = any_shell.run(launcher, "rustc", *arguments)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"<{each}>" for each in [*arguments, *arguments]]
    first, _, second = done.stderr.partition(WHY + "\n")
    assert first.startswith("\n".join(TOLD))
    assert second.rstrip("\n") == "\n".join(again)
    assert any_shell.marks("again") == []


def test_who_has_a_rustc_wrapper_keeps_it(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the environment, in cargo's configuration at home, or in one of a directory above this one."""
    below = job.folder / "project/sub"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    home = {"PATH": SYSTEM, "HOME": str(job.folder / "home")}
    told = job.open().environment(home)
    assert told["RUSTC_WRAPPER"] == told["SLICEMGR_LAUNCHER"]
    for name in ("RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER"):
        for value in ("sccache", ""):
            assert "RUSTC_WRAPPER" not in job.open().environment({**home, name: value})
    for place in (
        "home/.cargo/config.toml",
        "home/.cargo/config",
        "project/.cargo/config.toml",
        "elsewhere/config.toml",
    ):
        path = job.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('[build]\nrustc-wrapper = "sccache"\n')
        assert "RUSTC_WRAPPER" not in job.open().environment(
            {**home, "CARGO_HOME": str(job.folder / "elsewhere")} if "else" in place else home
        )
        path.write_text("[build]\njobs = 4\n")
    assert "RUSTC_WRAPPER" in job.open().environment(home)


# What it is made of


def test_the_launcher_is_light() -> None:
    """`slicemgr run` reads it before the command starts."""
    script = "import os, sys; before = set(sys.modules); import slicemgr.build.launcher; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert set(done.stdout.split()) <= {
        "__future__",
        "errno",
        "slicemgr",
        "slicemgr.build",
        "slicemgr.build.launcher",
        "binascii",
    }


@pytest.mark.parametrize("made", [False, True], ids=["as it is", "as it is written"])
def test_shellcheck_finds_nothing(job: Job, made: bool) -> None:
    """For any POSIX shell: on some machines it is not dash."""
    needs("shellcheck")
    job.bin  # noqa: B018
    shim = next(job.shims.glob("*/shim")) if made else ROOT / "slicemgr/build/shim.sh"
    done = subprocess.run(["shellcheck", "--shell=sh", str(shim)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
