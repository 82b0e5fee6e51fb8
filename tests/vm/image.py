# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the guest's root image, kernel and initrd once per recipe, and keeps them in the cache."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import hashlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm import recipe as recipe_module
from tests.vm.recipe import Recipe, chosen

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "genext2fs": "genext2fs",
    "tune2fs": "e2fsprogs",
    "qemu-system-x86_64": "qemu-system-x86",
}
"""Program the test bed calls -> Debian package that brings it."""

SEARCH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
"""An ordinary user's PATH on Debian lacks the folder of tune2fs."""


class ImageError(Exception):
    """The image cannot be built; the message is one line that ends in what to try."""


@dataclass(frozen=True, slots=True)
class Image:
    """A built guest: what qemu is given."""

    root: Path
    kernel: Path
    initrd: Path


def missing_packages() -> list[str]:
    """Debian packages to install before a guest can be built and booted here."""
    programs = dict(PROGRAMS)
    if os.geteuid() != 0:
        programs["newuidmap"] = "uidmap"  # mmdebstrap then works in a user namespace
    return [package for program, package in programs.items() if shutil.which(program, path=SEARCH) is None]


def cache_directory() -> Path:
    """`~/.cache/slicemgr/vm`, made if it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base) / "slicemgr" / "vm"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an flock on `path`; the kernel gives it back however this process ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def key(recipe: Recipe) -> str:
    """The recipe and the code that follows it, as 16 hex digits."""
    digest = hashlib.sha256(repr(recipe).encode())
    for source in (__file__, recipe_module.__file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:16]


def ensure_image(recipe: Recipe) -> Image:
    """The image of `recipe`, built if the cache does not have it. Raises ImageError."""
    cache = cache_directory()
    home = cache / f"{recipe.suite}-{key(recipe)}"
    with locked(cache / "build.lock"):
        if not home.is_dir():
            for leftover in cache.glob("building-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            building = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
            _build(recipe, building, log=cache / f"{recipe.suite}-build.log")
            building.rename(home)
            for older in cache.glob(f"{recipe.suite}-*/"):
                if older != home:
                    shutil.rmtree(older, ignore_errors=True)
    return Image(home / "root.img", home / "vmlinuz", home / "initrd.img")


def _build(recipe: Recipe, building: Path, log: Path) -> None:
    overlay = building / "overlay.tar"
    overlay.write_bytes(overlay_tar(recipe))
    (building / "boot").mkdir()
    root = building / "root.img"
    with log.open("wb") as log_file:
        # genext2fs reads mmdebstrap's tar from the pipe: 3 s, and no root needed to keep the owners.
        # Unpacking below fakeroot for `mke2fs -d` took 20 s; mmdebstrap's own ext2 format leaves 50 MB free.
        tar = subprocess.Popen(_mmdebstrap(recipe, building), stdout=subprocess.PIPE, stderr=log_file)
        assert tar.stdout is not None
        with tar, tar.stdout:
            image = subprocess.run(_genext2fs(recipe, root), stdin=tar.stdout, stdout=log_file, stderr=log_file)
        # genext2fs writes inodes of 128 bytes, whose times are whole seconds: too coarse for make and mtimes.
        grow = [shutil.which("tune2fs", path=SEARCH) or "tune2fs", "-I", "256", str(root)]
        tuned = image.returncode == 0 and subprocess.run(grow, stdout=log_file, stderr=log_file).returncode == 0
    if tar.returncode != 0 or not tuned:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        advice = "try again with the network up"
        if "unable to pick chroot mode" in last:
            # adduser writes these lines; users from elsewhere (LDAP, an image's own) may have none.
            ids = "--add-subuids 100000-165535 --add-subgids 100000-165535"
            advice = f"try `sudo usermod {ids} {getpass.getuser()}`: mmdebstrap needs a user namespace with more ids"
        raise ImageError(f"the guest's image was not built: read {log}, then {advice}\n{last}")
    # The highest version last: `update-initramfs` names them alike, so the two globs agree.
    for pattern, name in (("vmlinuz-*", "vmlinuz"), ("initrd.img-*", "initrd.img")):
        max((building / "boot").glob(pattern)).rename(building / name)
    shutil.rmtree(building / "boot")
    overlay.unlink()
    (building / "recipe.txt").write_text(repr(recipe) + "\n")


def _mmdebstrap(recipe: Recipe, building: Path) -> list[str]:
    command = ["mmdebstrap", "--variant=minbase", "--format=tar", "--include=" + ",".join(recipe.packages)]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.excluded]
    command += [f"--dpkgopt=path-include={pattern}" for pattern in recipe.included]
    # Before the kernel is unpacked, so that its initrd is made once and from our list of modules.
    command += [f"--essential-hook=tar-in {shlex.quote(str(building / 'overlay.tar'))} /"]
    for name, uid in recipe.users:
        command += [f'--customize-hook=chroot "$1" useradd --create-home --uid {uid} --shell /bin/bash {name}']
    command += [f'--customize-hook=chroot "$1" systemctl disable {unit}' for unit in recipe.disabled]
    command += [f"--customize-hook=sync-out /boot {shlex.quote(str(building / 'boot'))}"]
    return [*command, recipe.suite, "-"]


def _genext2fs(recipe: Recipe, root: Path) -> list[str]:
    blocks = recipe.size_mib * 256  # of 4 KiB
    return [
        "genext2fs",
        "-z",
        "-B",
        "4096",
        "-b",
        str(blocks),
        "-N",
        str(recipe.inodes),
        "-a",
        "-",
        str(root),
    ]


def overlay_tar(recipe: Recipe) -> bytes:
    """The recipe's files as a tar in memory, owned by root with the modes of the recipe."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in recipe.files:
            entry = tarfile.TarInfo(f"./{file.path}")
            entry.mode = file.mode
            if file.target is not None:
                entry.type, entry.linkname = tarfile.SYMTYPE, file.target
                tar.addfile(entry)
                continue
            data = file.text.encode()
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def main() -> int:
    """`--missing`: packages to install, one a line. Without it: build the image if need be, print where."""
    if sys.argv[1:] == ["--missing"]:
        print("\n".join(missing_packages()))
        return 0
    if sys.argv[1:]:
        print("usage: python3 -m tests.vm.image [--missing]", file=sys.stderr)
        return 2
    try:
        print(ensure_image(chosen()).root.parent)
    except ImageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
