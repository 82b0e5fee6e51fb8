# SPDX-License-Identifier: LGPL-2.1-or-later
"""Figures for docs/benchmarks.md, taken in the guest when somebody wants them (conftest.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bench.pacing_guest import ALIKE, MIXED, measure, table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.vm(users=("tester",), timeout=900)
@pytest.mark.parametrize("name", ["alike", "mixed"])
def test_beside_the_best_fixed_number_of_jobs(name: str, vm_files: Path) -> None:
    """Nothing is killed of what is paced."""
    found = measure({"alike": ALIKE, "mixed": MIXED}[name])
    (vm_files / f"pacing-{name}.md").write_text(table(name, found))
    assert not any(each.killed for way, each in found.items() if way.startswith("paced"))
