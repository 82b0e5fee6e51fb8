# SPDX-License-Identifier: LGPL-2.1-or-later
"""The recordings in tests/data/episodes are those that tests/vm/test_episodes.py makes, and can be read."""

import gzip
from pathlib import Path

import pytest

from tests.vm.checkout import ROOT
from tests.vm.episodes import FILES, load, save
from tests.vm.test_episodes import EPISODES, FACTS

FOLDER = ROOT / "tests/data/episodes"
RECORDINGS = sorted(FOLDER.glob("*.jsonl.gz"))
LIMIT_BYTES = 600_000


def test_there_is_one_of_each_episode() -> None:
    """Neither one that nothing makes any more, nor one that nobody has kept."""
    assert {path.name.removesuffix(".jsonl.gz") for path in RECORDINGS} == {each.name for each in EPISODES}
    assert set(FACTS) == {each.name for each in EPISODES}
    assert sum(path.stat().st_size for path in RECORDINGS) < LIMIT_BYTES


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_it_is_what_the_table_says(path: Path) -> None:
    """Label and facts hold for the file as they held in the guest."""
    recording = load(path)
    (episode,) = (each for each in EPISODES if each.name == recording.header.scenario)
    assert path.name == f"{episode.name}.jsonl.gz"
    assert (recording.header.expected, recording.header.command) == (episode.expected, episode.command)
    assert all(set(sample.files) >= {*FILES, "meminfo"} for sample in recording.samples)
    for fact in FACTS[episode.name]:
        fact(recording)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """A recording survives, to the character; the compressed bytes are zlib's own affair."""
    kept = RECORDINGS[0]
    save(load(kept), tmp_path / "again")
    assert gzip.decompress((tmp_path / "again").read_bytes()) == gzip.decompress(kept.read_bytes())
