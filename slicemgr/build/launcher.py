# SPDX-License-Identifier: LGPL-2.1-or-later
"""The launcher: a step that slicemgr has killed is run again, and make never hears of it. Light, see model/quantity.py.

A directory with links named as compilers stands first in a job's $PATH, each of them shim.sh: the parent of the real
compiler. When that fails *and* slicemgr has left a mark for the shim's pid, the shim gives the same command once more;
it says so by a file of its own first, so that the pacer lets it run alone. Whatever else goes wrong is make's to hear.

Paths are kept by others: CMake resolves `cc` at configure time and writes what it found into its cache, libtool does so
with `ld`. So that a tree outlives the job, three things:

- The links are not in the job's directory, which goes with it, but in one that stays, below `shims`. Called outside of
  a job they become the real compiler at once, the one that $PATH had when they were made: the directory is named after
  what is in it. An upgraded compiler gets a new directory, and the shim has the age of the newest compiler, because
  ccache takes a compiler's age for what it is.
- `cmake` itself is among the links, and looks for compilers without us, so that its cache and compile_commands.json
  name the real ones: clangd asks only the compilers that it knows.
- What CMake is told of us instead (`CMAKE_<LANG>_COMPILER_LAUNCHER` is kept in its cache, too) names no path at all: a
  line for the shell that takes the launcher from the environment, if there is one. Only the cmake that configures a
  new tree is told; a tree that is there would be built anew, because all of its commands would be others.

A tree that was configured outside of a job knows absolute paths only, and no launcher: nothing here reaches it.
"""

from __future__ import annotations

import binascii
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Final

COMPILERS: Final = frozenset({"cc", "c++", "gcc", "g++", "gfortran", "clang", "clang++"})
"""They write their output anew from what they are given, and remove it when they fail. With a target and a version:
aarch64-linux-gnu-g++, gcc-12."""

PROGRAMS: Final = COMPILERS | {
    # The standard's names of cc, and compilers of one vendor.
    "c89", "c99", "icx", "icpx", "ifx", "hipcc", "nvcc",
    # Linkers called by themselves (the kernel's vmlinux); below a compiler they are part of its step.
    "ld", "ld.bfd", "ld.gold", "ld.lld", "ld.mold", "gold", "lld", "mold",
    # Documentation and resources, from given files to given files.
    "meinproc5", "meinproc6", "xsltproc", "rcc",
    # They look for the compiler in $PATH and take its age for what it is: it must not be ours that they find.
    "ccache", "sccache", "distcc", "icecc",
    # For $PATH's sake, see above; never run again.
    "cmake", "ccmake", "cmake-gui",
}  # fmt: skip
"""Not here, each for a reason:

- ar, ranlib, strip, objcopy, clang-tidy -fix: change a file in place; killed halfway it is neither old nor new.
- as, cpp, moc, uic, bison, protoc: some megabytes, never the victim, and too short to pay for a parent.
- rustc: by $RUSTC_WRAPPER, which leaves it to cargo which one is meant: by name rustup's proxy would run each time.
- rustdoc, doxygen, latex: read what they or their kin have written before.
- javac, ghc, python, go: run what a project gives them (annotation processors, Template Haskell, tests).
- make, ninja, cargo, install, sh: drivers; what they do can't be done twice.
"""

RETRIES: Final = 1
"""How often a step is run again. Alone it fits or it does not: a second time would tell nothing new."""

CMAKE_LAUNCHER: Final = (
    '/bin/sh;-c;test -x "$SLICEMGR_LAUNCHER" && exec "$SLICEMGR_LAUNCHER" "$@" || exec "$@";slicemgr-launch'
)
"""For CMake's cache, where it stays: a list with CMake's semicolons; without brackets, in which CMake splits none."""

_TEMPLATE: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shim.sh")
_CACHES: Final = frozenset({"ccache", "sccache"})
_FILE_TYPE: Final = 0o170000
_REGULAR: Final = 0o100000


class Launcher:
    """What one job needs for it: the links, the variables, the marks."""

    def __init__(self, directory: str, search_path: str, excluded: Sequence[str] = (), *, shims: str) -> None:
        """Make the job's private `directory` (0700, its parent is there) and, if need be, the links below `shims`.

        `search_path` is the command's $PATH; `excluded` names programs that must not be run again, with all of their
        versions: gcc means gcc-12 too. `shims` is absolute and stays when the job ends.

        Raises OSError: not to be written, or nothing may be executed there.
        """
        self._directory = directory
        self._shims = shims.rstrip("/")
        self._excluded = frozenset(excluded)
        self._real = dict(_compilers(self._entries(search_path), self._excluded))
        """What there is -> the path and the age of the real one."""
        self._place = self._made()
        os.mkdir(directory, 0o700)
        for marks in ("killed", "again"):
            os.mkdir(f"{directory}/{marks}", 0o700)

    def environment(self, before: Mapping[str, str]) -> dict[str, str]:
        """The variables to set for the command, on top of those that it gets anyway (`before`)."""
        launcher = f"{self._place}/slicemgr-launch"
        path = ":".join(self._entries(before.get("PATH", os.defpath)))
        # One who is inside of a step of an outer job is not inside of one of ours.
        told = {
            "PATH": f"{self._place}/bin:{path}",
            "SLICEMGR_JOB": self._directory,
            "SLICEMGR_LAUNCHER": launcher,
            "SLICEMGR_RETRIES": str(RETRIES),
            "SLICEMGR_STEP": "",
        }
        if "rustc" not in self._excluded and not _has_rustc_wrapper(before):
            told["RUSTC_WRAPPER"] = launcher
        if "cmake" in self._real:
            # A project that looks for ccache does so where no launcher is set: its trees would be without it for good.
            kinds = ("LINKER",) if self._real.keys() & _CACHES else ("LINKER", "COMPILER")
            told.update((f"SLICEMGR_CMAKE_{kind}", CMAKE_LAUNCHER) for kind in kinds)
        return told

    def mark_killed(self, ancestor_pids: Iterable[int]) -> None:
        """Note that a process below these is about to be killed for lack of memory: *before* the signal.

        The shim may look at once. Who of them is a shim need not be known. Raises OSError.
        """
        for pid in ancestor_pids:
            path = f"{self._directory}/killed/{pid}"
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))

    def set_near(self, is_near: bool) -> None:
        """Whether somebody might be killed by a guard in another process, whose word comes late. Raises OSError."""
        path = f"{self._directory}/near"
        if is_near:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        elif os.access(path, os.F_OK):
            os.unlink(path)

    def is_again(self, ancestor_pids: Iterable[int]) -> bool:
        """Whether a process with these ancestors belongs to a step that is run again, and so is to run alone."""
        return any(os.access(f"{self._directory}/again/{pid}", os.F_OK) for pid in ancestor_pids)

    def close(self) -> None:
        """Remove the job's directory. Who still compiles is not run again; the links stay. Raises OSError."""
        for marks in (f"{self._directory}/killed", f"{self._directory}/again"):
            _remove_with_files(marks)
        self.set_near(False)
        try:
            os.rmdir(self._directory)
        except FileNotFoundError:
            return

    def _entries(self, search_path: str) -> list[str]:
        """$PATH without the links of a job around this one: its marks are not ours."""
        ours = f"{self._shims}/"
        return [entry for entry in search_path.split(":") if not entry.startswith(ours)]

    def _made(self) -> str:
        """The directory for exactly these compilers; made, if nobody has before us."""
        with open(_TEMPLATE, encoding="utf-8") as file:
            template = file.read()
        table = "".join(f"{_quoted(name)}) slicemgr_real={_quoted(path)} ;;\n" for name, (path, _) in self._found())
        ages = ",".join(str(age) for _, (_, age) in self._found())
        told = os.fsencode(f"{template}\n{table}\n{ages}")
        # Two of 32 bits; hashlib takes 2 ms to import.
        place = f"{self._shims}/{binascii.crc32(told):08x}{binascii.crc32(told[::-1]):08x}"
        # In shell quotes, so that the mark stands where a shell and a linter read valid lines.
        script = template.replace("slicemgr_bin= # @BIN@", f"slicemgr_bin={_quoted(f'{place}/bin')}", 1)
        script = script.replace("# @TABLE@\n", table, 1)
        if not os.path.isdir(place):
            self._make(place, script, newest=max((age for _, age in self._real.values()), default=0))
        if not os.access(f"{place}/shim", os.X_OK):
            raise PermissionError(errno.EACCES, "nothing may be executed here; try another XDG_STATE_HOME", place)
        return place

    def _found(self) -> list[tuple[str, tuple[str, int]]]:
        return sorted(self._real.items())

    def _make(self, place: str, script: str, *, newest: int) -> None:
        """All of it under another name, then renamed: no other job ever sees half of it."""
        os.makedirs(self._shims, mode=0o700, exist_ok=True)
        half = f"{place}.{os.getpid()}"
        os.makedirs(f"{half}/bin", mode=0o755)
        try:
            descriptor = os.open(f"{half}/shim", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
            with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(script)
            os.utime(f"{half}/shim", ns=(newest, newest))
            os.symlink("shim", f"{half}/slicemgr-launch")
            for name in self._real:
                os.symlink("../shim", f"{half}/bin/{name}")
            os.rename(half, place)
        except OSError as error:
            _remove_with_files(f"{half}/bin")
            _remove_with_files(half)
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:  # Another job was first, with the same.
                raise


def _compilers(entries: Iterable[str], excluded: frozenset[str]) -> Iterator[tuple[str, tuple[str, int]]]:
    """Each program of the table that $PATH has, with its path and age in ns: the first one of its name."""
    seen: set[str] = set()
    read = set()
    for entry in entries:
        if not entry.startswith("/"):
            continue  # It is another one wherever the build goes.
        try:
            place = os.stat(entry)
            if (place.st_dev, place.st_ino) in read:  # /bin is /usr/bin
                continue
            names = os.listdir(entry)
        except OSError:
            continue
        read.add((place.st_dev, place.st_ino))
        for name in _ours_of(names, excluded) - seen:
            path = f"{entry}/{name}"
            try:
                status = os.stat(path)
            except OSError:
                continue
            if status.st_mode & _FILE_TYPE == _REGULAR and os.access(path, os.X_OK):
                seen.add(name)
                yield name, (path, status.st_mtime_ns)


def _ours_of(names: Sequence[str], excluded: frozenset[str]) -> set[str]:
    """0.2 ms for the 1,100 of a /usr/bin; to take each apart would be 1 ms."""
    found = set(PROGRAMS.intersection(names)) - excluded
    for name in names:
        if "gcc" in name or "g++" in name or "clang" in name or "gfortran" in name or name.endswith(("-cc", "-c++")):
            stem = _stem(name)
            if stem in COMPILERS and not excluded & {name, stem}:
                found.add(name)
    return found


def _stem(name: str) -> str:
    """Without the version behind and the target before it: x86_64-linux-gnu-g++-12 -> g++."""
    base, _, version = name.rpartition("-")
    return (base if version.replace(".", "").isdigit() else name).rpartition("-")[2]


def _has_rustc_wrapper(environment: Mapping[str, str]) -> bool:
    """Whether a person has one already (sccache), in the environment or in cargo's configuration: ours would hide it.

    https://doc.rust-lang.org/cargo/reference/config.html: the directories from here upwards, then $CARGO_HOME.
    """
    if "RUSTC_WRAPPER" in environment or "CARGO_BUILD_RUSTC_WRAPPER" in environment:
        return True
    try:
        here = os.getcwd()
    except OSError:
        here = "/"
    places = [environment.get("CARGO_HOME") or f"{environment.get('HOME', '')}/.cargo", "/.cargo"]
    while here != "/":
        places.append(f"{here}/.cargo")
        here = os.path.dirname(here)
    return any(_says(f"{place}/{name}", b"rustc-wrapper") for place in places for name in ("config.toml", "config"))


def _says(path: str, word: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return word in file.read()
    except OSError:
        return False


def _quoted(text: str) -> str:
    """For sh, as shlex.quote, which needs `re`."""
    return "'" + text.replace("'", "'\\''") + "'"


def _remove_with_files(directory: str) -> None:
    """Whatever is put into it meanwhile goes, too. Raises OSError."""
    while True:
        try:
            for name in os.listdir(directory):
                try:
                    os.unlink(f"{directory}/{name}")
                except FileNotFoundError:
                    continue
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return
