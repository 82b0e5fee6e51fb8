# SPDX-License-Identifier: LGPL-2.1-or-later
"""What differs from one moment to the next."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.bus.objects import Added, Changed, Difference, Objects, Removed, differences, slice_object
from slicemgr.model.object_path import label, name_of

SILENT = frozenset({("i", "silent")})
OBJECTS = st.dictionaries(
    st.sampled_from(["/a", "/b", "/c"]),
    st.dictionaries(
        st.sampled_from(["i", "j"]),
        st.dictionaries(st.sampled_from(["x", "silent"]), st.integers(0, 2), min_size=1),
        min_size=1,
    ),
)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {}, []),
        ({}, {"/a": {"i": {"x": 1}}}, [Added("/a")]),
        ({"/a": {"i": {"x": 1}}}, {}, [Removed("/a", ("i",))]),
        ({"/a": {"i": {"x": 1}}}, {"/a": {"i": {"x": 2}}}, [Changed("/a", "i", {"x": 2})]),
        ({"/a": {"i": {"silent": 1}}}, {"/a": {"i": {"silent": 2}}}, []),
        ({"/a": {"i": {"x": 1}}}, {"/a": {"j": {"x": 1}}}, [Removed("/a", ("i",)), Added("/a")]),
        ({"/a": {"i": {"x": 1}}}, {"/b": {"i": {"x": 1}}}, [Removed("/a", ("i",)), Added("/b")]),
    ],
)
def test_the_table(before: Objects, after: Objects, told: list[Difference]) -> None:
    assert list(differences(before, after, SILENT)) == told


@given(OBJECTS, OBJECTS)
def test_who_hears_all_of_it_knows_all_of_it(before: Any, after: Any) -> None:
    """But for what tells nobody."""
    known = {path: {name: dict(values) for name, values in each.items()} for path, each in before.items()}
    for difference in differences(before, after, SILENT):
        match difference:
            case Removed(path, interfaces):
                assert set(interfaces) == set(known.pop(path))
            case Added(path):
                assert path not in known
                known[path] = {name: dict(values) for name, values in after[path].items()}
            case Changed(path, interface, properties):
                assert properties
                known[path][interface].update(properties)
    assert known.keys() == after.keys()
    for path, interfaces in after.items():
        assert known[path].keys() == interfaces.keys()
        for name, values in interfaces.items():
            for key, value in values.items():
                assert (name, key) in SILENT or known[path][name][key] == value


@given(st.binary(max_size=12).map(os.fsdecode) | st.sampled_from(["", "_", "_2e", "1", "build.slice"]))
def test_a_label_leads_back_to_its_name(name: str) -> None:
    """Whatever bytes it has."""
    assert name_of(label(name)) == name


@pytest.mark.parametrize("foreign", ["_2", "a_zz", "_e9x_", "é"])
def test_what_is_no_label_stays(foreign: str) -> None:
    """It comes from whoever sends the signal."""
    assert name_of(foreign) == foreign


def test_paths_are_as_systemds() -> None:
    assert slice_object("app-ci.slice") == "/org/slicemgr1/slices/app_2dci_2eslice"
