# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the configuration may say, and what holds where it says nothing. docs/configuration.md is its manual."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Final, TypeAlias

from slicemgr.config import ConfigError, Key, Tree, key_text, one_line, shortened, values
from slicemgr.model.notice import NotificationSpec
from slicemgr.model.pacing import PacingSpec
from slicemgr.model.quantity import Percent
from slicemgr.model.slice import Auto, MachineSpec, SliceKind, SliceSpec, VictimRule
from slicemgr.model.spec import SpecError, slice_unit_name
from slicemgr.model.vital import VITAL_NAMES


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, as values."""

    slices: tuple[SliceSpec, ...]
    """build, app and session, always; then the user's own, in the order of the files."""
    machine: MachineSpec
    pacing: PacingSpec = dataclasses.field(default_factory=PacingSpec)
    notifications: NotificationSpec = dataclasses.field(default_factory=NotificationSpec)


PROTECTED: Final = VITAL_NAMES
"""Names (comm) of processes whose end is the end of the session: never taken from a slice of kind app or session. The
configuration adds to them and can't take any away: this is the promise, not a preference."""

_APP: Final = SliceSpec(
    unit="app.slice",
    kind=SliceKind.APP,
    # As units/user/app.slice.d, where the reason stands; tests/unit/test_units.py compares.
    memory_low=Percent(1000),
    # In apps and in a session people have unsaved work, so the one that is big is asked to go (SIGTERM) before it is
    # made to. Five seconds: an editor writes its swap file in less, and nobody waits longer before a frozen screen.
    victim=VictimRule.HIGHEST_BADNESS,
    grace_seconds=5.0,
    protect=PROTECTED,
)

DEFAULTS: Final[Mapping[SliceKind, SliceSpec]] = {
    SliceKind.BUILD: SliceSpec(
        unit="build.slice",
        kind=SliceKind.BUILD,
        # All builds together leave the session its reserve. No memory_high: what stands right is just below memory_max,
        # whatever that is (policy/slice_limits.py); further below, a build crawls for minutes and is never ended.
        memory_max=Auto.AUTO,
        # Below the 33% that logind gives one user (user-.slice.d/10-defaults.conf): a fork bomb in a build leaves the
        # session what it takes to start a terminal. A job alone has systemd's 15% (DefaultTasksMax=).
        tasks_max=Percent(2500),
        # session.slice has 200 and app.slice 100: where all want the processor a build gets a quarter of the one and a
        # half of the other, and all of it where nobody else wants it. io_weight is left to the unit file: Debian 12 and
        # 13 do not delegate the io controller to the user manager, and without bfq or io.cost it does nothing.
        cpu_weight=50,
        # make lives, one compiler goes, at once: it has nothing to save.
        victim=VictimRule.HIGHEST_BADNESS_CHILD,
    ),
    SliceKind.APP: _APP,
    SliceKind.SESSION: dataclasses.replace(
        _APP,
        unit="session.slice",
        kind=SliceKind.SESSION,
        # As units/user/session.slice.d. (uresourced gives the active user 250 MiB, whatever the machine has.)
        memory_low=Percent(1000),
        cpu_weight=200,
    ),
}
"""By kind: build, app and session themselves, and with another name the user's own."""

DEFAULT_MACHINE: Final = MachineSpec(
    # earlyoom asks at 10% of both and kills at 5%. A laptop of 16 GiB with 1.6 GiB available is not short, it is in
    # use; at 0.8 GiB without swap page cache goes that the session runs from.
    memory_available=Percent(500),
    swap_free=Percent(1000),
    session_reserve=Auto.AUTO,
    # Half of the machine: the compositor goes only when it holds more than that, and then it should. -1000 would be
    # for ever, and a compositor that leaks takes everything else first.
    vital_oom_score_adj=-500,
)

_SYSTEMDS: Final = frozenset({"user", "system", "machine"})
"""systemd.special(7). As a slice of builds, user.slice would have every compositor among its victims."""

Keys: TypeAlias = Mapping[str, tuple[str, Callable[[Any], object]]]
"""A key of TOML -> the field that it fills, and the reader of its value."""

SLICE_KEYS: Final[Keys] = {
    "kind": ("kind", partial(values.read_choice, SliceKind)),
    "memory_high": ("memory_high", values.read_limit),
    "memory_max": ("memory_max", values.read_limit),
    "memory_swap_max": ("memory_swap_max", values.read_swap),
    "memory_low": ("memory_low", values.read_protection),
    "memory_min": ("memory_min", values.read_protection),
    "tasks_max": ("tasks_max", values.read_tasks),
    "cpu_weight": ("cpu_weight", values.read_weight),
    "io_weight": ("io_weight", values.read_weight),
    "victim": ("victim", partial(values.read_choice, VictimRule)),
    "grace": ("grace_seconds", values.read_grace),
    "protect": ("protect", values.read_patterns),
}
"""What a table [slice.NAME] may hold: key -> field of SliceSpec, and its reader."""

MACHINE_KEYS: Final[Keys] = {
    "memory_available": ("memory_available", values.read_threshold),
    "swap_free": ("swap_free", values.read_threshold),
    "session_reserve": ("session_reserve", values.read_reserve),
    "vital_oom_score_adj": ("vital_oom_score_adj", values.read_vital_adj),
}
"""What the table [machine] may hold: key -> field of MachineSpec, and its reader."""

PACING_KEYS: Final[Keys] = {
    "enabled": ("enabled", values.read_switch),
    "never_hold": ("never_hold", values.read_steps),
    "borrow": ("borrow", values.read_loan),
}
"""What the table [pacing] may hold: key -> field of PacingSpec, and its reader."""

NOTIFICATION_KEYS: Final[Keys] = {
    "enabled": ("enabled", values.read_switch),
}
"""What the table [notifications] may hold: key -> field of NotificationSpec, and its reader."""


def read(tree: Tree) -> Config:
    """The configuration that the tree means, over the defaults. Raises ConfigError with every error there is."""
    reading = _Reading(tree)
    config = reading.config()
    # In the order of the lines: who has them all in an editor goes through it once.
    errors = (*tree.errors, *(line for _, _, line in sorted(reading.errors, key=itemgetter(0, 1))))
    if errors:
        raise ConfigError(errors)
    return config


class _Reading:
    """One pass over a tree; what can't be meant is noted, and its default taken to look on."""

    def __init__(self, tree: Tree) -> None:
        self.errors: list[tuple[str, int, str]] = []
        self._tree = tree

    def config(self) -> Config:
        self._refuse_unknown((), self._tree.values, {"slice", "machine", "pacing", "notifications"})
        specs = {spec.unit: spec for spec in DEFAULTS.values()}
        named: dict[str, str] = {}
        for name, content in self._table(("slice",), self._tree.values.get("slice", {})).items():
            key = ("slice", name)
            if name in SLICE_KEYS and not isinstance(content, dict):
                self._note(key, "belongs to a slice; try [slice.build] above it")
                continue
            try:
                unit = slice_unit_name(name)
            except SpecError as error:
                self._note(key, str(error) if len(name) <= 255 else "is longer than 255 characters; try a short name")
                continue
            if unit.removesuffix(".slice").partition("-")[0] in _SYSTEMDS:
                self._note(key, "is systemd's own, with sessions or services in it; try [slice.build]")
                continue
            if unit in named:
                self._note(key, f"is the same slice as {key_text(('slice', named[unit]))}; try one table for both")
                continue
            named[unit] = name
            specs[unit] = self._slice(key, unit, self._table(key, content))
        machine = dataclasses.replace(DEFAULT_MACHINE, **self._top("machine", MACHINE_KEYS))
        return Config(
            tuple(specs.values()),
            machine,
            PacingSpec(**self._top("pacing", PACING_KEYS)),
            NotificationSpec(**self._top("notifications", NOTIFICATION_KEYS)),
        )

    def _top(self, name: str, known: Keys) -> dict[str, Any]:
        return self._fields((name,), self._table((name,), self._tree.values.get(name, {})), known)

    def _slice(self, key: Key, unit: str, table: Mapping[str, object]) -> SliceSpec:
        fields = self._fields(key, table, SLICE_KEYS)
        own = next((spec.kind for spec in DEFAULTS.values() if spec.unit == unit), SliceKind.BUILD)
        default = DEFAULTS[fields.get("kind", own)]
        if unit != default.unit:
            # What is kept for the apps, or for the session, is kept once.
            default = dataclasses.replace(default, memory_low=None)
        if "protect" in fields:
            fields["protect"] = tuple(dict.fromkeys((*default.protect, *fields["protect"])))
        spec = dataclasses.replace(default, **(fields | {"unit": unit, "kind": default.kind}))
        for low in ("memory_high", "memory_low", "memory_min"):
            at = low if low in table else "memory_max"
            if _above(getattr(spec, low), spec.memory_max):
                self._note((*key, at), f"{low} is above memory_max; try a lower {low}, or a higher memory_max")
        return spec

    def _fields(self, key: Key, table: Mapping[str, object], known: Keys) -> dict[str, Any]:
        self._refuse_unknown(key, table, known)
        fields = {}
        for name, (field, reader) in known.items():
            if name in table:
                try:
                    values.refuse_oversized(table[name])
                    fields[field] = reader(table[name])
                except values.RefusedError as error:
                    self._note((*key, name), str(error))
        return fields

    def _table(self, key: Key, value: object) -> Mapping[str, object]:
        if isinstance(value, dict):
            return value
        example = "[slice.build]" if key == ("slice",) else f"[{key_text(key)}]"
        self._note(key, f"must be a table, and is {values.kind_of(value)}; try {example}")
        return {}

    def _refuse_unknown(self, above: Key, table: Mapping[str, object], known: Collection[str]) -> None:
        for name in table:
            if name not in known:
                self._note((*above, name), f"no such key; try {_nearest(name, table[name], known)}")

    def _note(self, key: Key, message: str) -> None:
        origin = self._tree.origin(key)
        text = one_line(f"{key_text(shortened(key))}: {message}")
        if origin is None:
            self.errors.append(("", 0, text))
        else:
            self.errors.append((origin.path, origin.line or 0, f"{origin}: {text}"))


def _above(low: object, high: object) -> bool:
    """Both in bytes or both a share; how much "auto" is, and a share, only the machine can tell."""
    if isinstance(low, Percent) and isinstance(high, Percent):
        return low > high
    return isinstance(low, int) and isinstance(high, int) and low > high


def _nearest(name: str, value: object, known: Collection[str]) -> str:
    """The key that was meant: also as systemd (MemoryMax) and TOML's usage (memory-max) write it."""

    def plain(text: str) -> str:
        return text[:40].lower().replace("_", "").replace("-", "")

    by_plain = {plain(each): each for each in known}
    from difflib import get_close_matches  # Only when something is wrong.

    near = get_close_matches(plain(name), by_plain, 1)
    if near:
        return by_plain[near[0]]
    if "slice" in known and isinstance(value, dict):
        return f"[{key_text(shortened(('slice', name)))}]"
    return "one of " + ", ".join(sorted(known))
