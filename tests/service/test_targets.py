# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which slice or job is meant: by object, by unit, by name, by cgroup; also where two are called alike."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slicemgr.bus.errors import InvalidArgumentError, NotFoundError, NotManagedError, RequestError
from slicemgr.bus.objects import job_object, slice_object
from slicemgr.service import targets
from tests.bus.fake_daemon import BUILD, KATE, KATE_UNIT, USER_ROOT, moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from slicemgr.service.published import Moment

USERS = moment()
SYSTEMS = moment(user_uid=None)
BUILD_SLICE, APP_SLICE = USERS.slices
(KATE_JOB,) = BUILD_SLICE.jobs
TWICE = replace(
    USERS,
    slices=(
        replace(BUILD_SLICE, jobs=(KATE_JOB, replace(KATE_JOB, unit="slicemgr-kate-8.scope", path=f"{BUILD}/slicemgr-kate-8.scope"))),
        # A slice in a slice, and one whose name begins as another's.
        replace(BUILD_SLICE, unit="build-big.slice", path=f"{BUILD}/build-big.slice", jobs=()),
        replace(BUILD_SLICE, unit="build2.slice", path=f"{USER_ROOT}/build2.slice", jobs=()),
    ),
)  # fmt: skip


@pytest.mark.parametrize("at", [USERS, SYSTEMS])
def test_every_object_is_found_by_its_path(at: Moment) -> None:
    """And names its owner where that is not the daemon's own user."""
    uid = 0 if at is USERS else 1000
    found = {each.path: each for each in targets.targets(at)}
    assert set(found) == {slice_object("build.slice", uid), slice_object("app.slice", uid), job_object(KATE_UNIT, uid)}
    for path, target in found.items():
        assert targets.by_path(path, at) == target
        assert target.uid == uid
    assert (found[job_object(KATE_UNIT, uid)].unit, found[job_object(KATE_UNIT, uid)].cgroup) == (KATE_UNIT, KATE)
    assert (found[slice_object("build.slice", uid)].unit, found[slice_object("build.slice", uid)].cgroup) == (
        "build.slice",
        BUILD,
    )


@pytest.mark.parametrize(
    ("find", "name", "cgroup"),
    [
        (targets.slice_named, "build", BUILD),
        (targets.slice_named, "build.slice", BUILD),
        (targets.job_named, "kate", KATE),
        (targets.job_named, KATE_UNIT, KATE),
        (targets.unit_named, "build", BUILD),
        (targets.unit_named, "kate", KATE),
        (targets.job_around, KATE, KATE),
        (targets.job_around, f"{KATE}/payload/a", KATE),
    ],
)
def test_who_is_meant(find: Callable[[str, Moment], targets.Target], name: str, cgroup: str) -> None:
    assert find(name, USERS).cgroup == cgroup


@pytest.mark.parametrize(
    ("find", "name", "kind", "words"),
    [
        (targets.by_path, job_object("gone.scope"), NotFoundError, "/org/slicemgr1/jobs/gone_2escope is gone; try GetManagedObjects"),
        (targets.by_path, slice_object("build.slice", 1000), NotFoundError, "/org/slicemgr1/users/u1000/slices/build_2eslice is gone; try GetManagedObjects"),
        (targets.slice_named, "bild", NotFoundError, "no slice 'bild'; try 'build'"),
        (targets.slice_named, "", NotFoundError, "no slice ''; try ListSlices"),
        (targets.slice_named, "kate", NotFoundError, "no slice 'kate'; try ListSlices"),
        (targets.job_named, "kat", NotFoundError, "no job 'kat'; try 'kate'"),
        (targets.job_named, "", NotFoundError, "no job ''; try ListJobs"),
        (targets.job_around, BUILD, NotManagedError, f"{BUILD} is in no job; try PlaceJob"),
        (targets.job_around, f"{KATE}x", NotManagedError, f"{KATE}x is in no job; try PlaceJob"),
        (targets.job_around, "/", NotManagedError, "/ is in no job; try PlaceJob"),
    ],
)  # fmt: skip
def test_who_is_not_there(
    find: Callable[[str, Moment], targets.Target], name: str, kind: type[RequestError], words: str
) -> None:
    with pytest.raises(kind) as error:
        find(name, USERS)
    assert (type(error.value), str(error.value)) == (kind, words)


def test_two_jobs_of_one_name() -> None:
    """Only their units tell them apart, and nothing is done to the first that comes."""
    for find in (targets.job_named, targets.unit_named):
        with pytest.raises(
            InvalidArgumentError, match=f"several jobs are called 'kate'; try '{KATE_UNIT}' or 'slicemgr-kate-8"
        ):
            find("kate", TWICE)
    assert targets.job_named("slicemgr-kate-8.scope", TWICE).cgroup == f"{BUILD}/slicemgr-kate-8.scope"


@pytest.mark.parametrize(
    ("cgroup", "around"),
    [
        (f"{KATE}/a", KATE),
        (BUILD, BUILD),
        (f"{BUILD}/other.scope", BUILD),
        (f"{BUILD}/build-big.slice/x.scope", f"{BUILD}/build-big.slice"),
        (f"{USER_ROOT}/build2.slice/x.scope", f"{USER_ROOT}/build2.slice"),
        (f"{USER_ROOT}/build23.slice", None),
        (USER_ROOT, None),
        ("/", None),
    ],
)
def test_the_innermost_around_it(cgroup: str, around: str | None) -> None:
    found = targets.around(cgroup, TWICE)
    assert (None if found is None else found.cgroup) == around
