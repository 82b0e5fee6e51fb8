# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which slice or job an object, a unit or a process means, in what is published; pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from slicemgr.bus.errors import InvalidArgumentError, NotFoundError, NotManagedError
from slicemgr.bus.objects import job_object, slice_object
from slicemgr.model.cgroup import is_below
from slicemgr.service.overview import JobOverview, SliceOverview, UnknownTargetError, find_slice, nearest_name
from slicemgr.service.published import Moment


@dataclass(frozen=True, slots=True)
class Target:
    """A slice, or a job in one."""

    slice: SliceOverview
    uid: int
    """Whose, where it is not the daemon's own manager's."""
    job: JobOverview | None = None

    @property
    def unit(self) -> str:
        """`build.slice`, or the scope."""
        return self.slice.unit if self.job is None else self.job.unit

    @property
    def cgroup(self) -> str:
        """As /proc/PID/cgroup names it."""
        return self.slice.path if self.job is None else self.job.path

    @property
    def path(self) -> str:
        """The object."""
        if self.job is None:
            return slice_object(self.slice.unit, self.uid)
        return job_object(self.job.unit, self.uid)


def targets(moment: Moment) -> Iterator[Target]:
    """All of them."""
    for each in moment.slices:
        uid = moment.standing.uid_of(each.path)
        yield Target(each, uid)
        for job in each.jobs:
            yield Target(each, uid, job)


def by_path(path: str, moment: Moment) -> Target:
    """Raises NotFoundError: it has ended since."""
    for target in targets(moment):
        if target.path == path:
            return target
    raise NotFoundError(f"{path} is gone; try GetManagedObjects")


def slice_named(unit: str, moment: Moment) -> Target:
    """Raises NotFoundError."""
    try:
        found = find_slice(unit, moment.slices)
    except UnknownTargetError as error:
        raise NotFoundError(f"no slice '{unit}'; try {_hint(error.nearest, 'ListSlices')}") from None
    return Target(found, moment.standing.uid_of(found.path))


def job_named(name: str, moment: Moment) -> Target:
    """By its unit or its name. Raises NotFoundError; InvalidArgumentError if several have that name."""
    found = [
        target for target in targets(moment) if target.job is not None and name in {target.job.unit, target.job.name}
    ]
    if len(found) > 1:
        units = " or ".join(f"'{target.unit}'" for target in found[:3])
        raise InvalidArgumentError(f"several jobs are called '{name}'; try {units}")
    if not found:
        hint = _hint(nearest_name(name, moment.slices, with_jobs=True), "ListJobs")
        raise NotFoundError(f"no job '{name}'; try {hint}")
    return found[0]


def unit_named(unit: str, moment: Moment) -> Target:
    """A job by its unit or its name, or a slice. Raises NotFoundError, InvalidArgumentError."""
    try:
        return slice_named(unit, moment)
    except NotFoundError:
        return job_named(unit, moment)


def job_around(cgroup: str, moment: Moment) -> Target:
    """The job that a cgroup is in. Raises NotManagedError."""
    for target in targets(moment):
        if target.job is not None and is_below(cgroup, target.cgroup):
            return target
    raise NotManagedError(f"{cgroup} is in no job; try PlaceJob")


def around(cgroup: str, moment: Moment) -> Target | None:
    """The innermost job or slice that a cgroup is or is in; None if nobody manages it."""
    found = [target for target in targets(moment) if is_below(cgroup, target.cgroup)]
    return max(found, key=lambda target: len(target.cgroup), default=None)


def _hint(nearest: str, otherwise: str) -> str:
    return f"'{nearest}'" if nearest else otherwise
