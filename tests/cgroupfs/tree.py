# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trees of files as nested literals: what a test says of a cgroup file system, of /proc and of /sys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

Tree: TypeAlias = Mapping[str, "str | Tree"]
"""A string is the contents of a file, a mapping is a directory."""


def grow(root: Path, tree: Tree) -> Path:
    """Make it below `root`, which need not exist; `root`."""
    root.mkdir(exist_ok=True, parents=True)
    for name, node in tree.items():
        if isinstance(node, str):
            (root / name).write_text(node)
        else:
            grow(root / name, node)
    return root
