# SPDX-License-Identifier: LGPL-2.1-or-later
"""The schema: what may be said, the values that come of it, and every error with its exact words."""

import datetime
import fnmatch
import inspect
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.config import ConfigError, Origin, Tree, files
from slicemgr.config.schema import (
    DEFAULT_MACHINE,
    DEFAULTS,
    MACHINE_KEYS,
    NOTIFICATION_KEYS,
    PACING_KEYS,
    PROTECTED,
    SLICE_KEYS,
    Config,
    read,
)
from slicemgr.config.values import parse_duration
from slicemgr.model.pacing import PacingSpec
from slicemgr.model.quantity import NoLimit, Percent, QuantityError
from slicemgr.model.slice import Auto, SliceKind, SliceSpec, VictimRule

EXAMPLES = sorted((Path(__file__).parents[2] / "examples/config").glob("*.toml"))


def means(**content: Any) -> Config:
    return read(Tree(content))


def build(**table: Any) -> SliceSpec:
    return means(slice={"build": table}).slices[0]


def errors(content: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(Tree(content))
    return list(caught.value.lines)


def test_nothing_said_is_the_defaults() -> None:
    """Three slices, in this order; a build has a wall, the session a floor."""
    config = read(Tree())
    assert config == Config(tuple(DEFAULTS.values()), DEFAULT_MACHINE)
    assert [spec.unit for spec in config.slices] == ["build.slice", "app.slice", "session.slice"]
    builds, apps, session = config.slices
    assert (builds.memory_max, builds.victim, builds.grace_seconds) == (Auto.AUTO, VictimRule.HIGHEST_BADNESS_CHILD, 0)
    assert (apps.memory_max, apps.victim, apps.grace_seconds) == (None, VictimRule.HIGHEST_BADNESS, 5)
    assert (session.memory_low, session.cpu_weight, session.protect) == (Percent(1000), 200, PROTECTED)


@pytest.mark.parametrize("comm", [
    "gnome-shell", "gnome-session-binary", "gnome-session-init-worker", "mutter-x11-frames", "kwin_wayland", "kwin_wayland_wrapper",
    "kwin_x11", "plasmashell", "ksmserver", "startplasma-wayland", "startplasma-x11", "kded5", "kded6", "kscreenlocker_greet", "sway",
    "Hyprland", "weston", "labwc", "Xorg", "Xwayland", "dbus-daemon", "dbus-broker", "dbus-broker-launch", "systemd", "pipewire",
    "pipewire-pulse", "wireplumber", "cinnamon-session", "xfce4-session", "cosmic-comp",
])  # fmt: skip
def test_the_session_is_protected_by_the_names_that_the_kernel_keeps(comm: str) -> None:
    """Fifteen bytes of a name are kept: a pattern that needs more never matches."""
    assert any(fnmatch.fnmatchcase(comm.encode()[:15].decode(), pattern) for pattern in PROTECTED)


@pytest.mark.parametrize("comm", ["cc1plus", "firefox", "bash", "java", "meinproc4", "rustc", "python3"])
def test_what_fills_memory_is_not_protected(comm: str) -> None:
    """A pattern that is too wide would leave nobody to end."""
    assert not any(fnmatch.fnmatchcase(comm, pattern) for pattern in PROTECTED)


@pytest.mark.parametrize(
    ("key", "value", "field", "meant"),
    [
        ("memory_max", 8 << 30, "memory_max", 8 << 30),
        ("memory_max", "8G", "memory_max", 8 << 30),
        ("memory_max", "60%", "memory_max", Percent(6000)),
        ("memory_max", "max", "memory_max", NoLimit.NO_LIMIT),
        ("memory_max", "auto", "memory_max", Auto.AUTO),
        ("memory_high", "auto", "memory_high", Auto.AUTO),
        ("memory_high", "100%", "memory_high", Percent(10_000)),
        ("memory_swap_max", 0, "memory_swap_max", 0),
        ("memory_swap_max", "200%", "memory_swap_max", Percent(20_000)),
        ("memory_low", "250M", "memory_low", 250 << 20),
        ("memory_min", 0, "memory_min", 0),
        ("tasks_max", 1, "tasks_max", 1),
        ("tasks_max", "500", "tasks_max", 500),
        ("tasks_max", "60 %", "tasks_max", Percent(6000)),
        ("tasks_max", "infinity", "tasks_max", NoLimit.NO_LIMIT),
        ("cpu_weight", 1, "cpu_weight", 1),
        ("io_weight", 10_000, "io_weight", 10_000),
        ("victim", "whole-job", "victim", VictimRule.WHOLE_JOB),
        ("victim", "highest-badness", "victim", VictimRule.HIGHEST_BADNESS),
        ("kind", "session", "kind", SliceKind.SESSION),
        ("grace", "500ms", "grace_seconds", 0.5),
        ("grace", 5, "grace_seconds", 5.0),
        ("grace", 0.25, "grace_seconds", 0.25),
        ("grace", "90", "grace_seconds", 90.0),
        ("protect", ["emacs", "app-org.gnome.Terminal*", "app-gnome-terminal.service"], "protect", ("emacs", "app-org.gnome.Terminal*", "app-gnome-terminal.service")),
        ("protect", [], "protect", ()),
    ],
)  # fmt: skip
def test_values(key: str, value: object, field: str, meant: object) -> None:
    """What a key may hold, and the model value that it becomes."""
    spec = build(**{key: value})
    assert getattr(spec, field) == meant
    assert type(getattr(spec, field)) is type(meant)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("memory_max", "12Q", "'12Q' is no size; try bytes, a suffix of 1024s (600M, 1.5G), or a percentage (60%)"),
        ("memory_max", -1, '-1 bytes is no size; try "60%"'),
        ("memory_max", True, 'must be a size, and is true or false; try "8G", "60%", or a number of bytes'),
        ("memory_max", 1.5, 'must be a size, and is a number; try "8G", "60%", or a number of bytes'),
        ("memory_max", ["8G"], 'must be a size, and is a list; try "8G", "60%", or a number of bytes'),
        ("memory_max", datetime.date(2010, 2, 1), 'must be a size, and is a date or a time; try "8G", "60%", or a number of bytes'),
        ("memory_max", 8, '8 bytes is less than any command needs to start; try "8M"'),
        ("memory_max", "0", '0 bytes is less than any command needs to start; try "64M"'),
        ("memory_max", "101%", '101% is no limit; try a share between "1%" and "100%", or "max" for no limit'),
        ("memory_high", "0%", '0% is no limit; try a share between "1%" and "100%", or "max" for no limit'),
        ("memory_max", 1 << 63, 'a number beyond 64 bits; try a smaller one, or "max" for no limit'),
        ("memory_max", "x" * 9999, "a text of 9999 characters can't be meant; try a shorter one"),
        ("memory_low", "auto", '"auto" is the machine less the session\'s reserve, for memory_high and memory_max; try a size'),
        ("memory_swap_max", "auto", '"auto" is the machine less the session\'s reserve, for memory_high and memory_max; try a size'),
        ("memory_min", "150%", 'more than the whole; try "100%" or less'),
        ("tasks_max", 0, "'0' is no number of tasks; try a number from 1 on, a share such as \"25%\", or \"max\""),
        ("tasks_max", "8G", "'8G' is no number of tasks; try a number from 1 on, a share such as \"25%\", or \"max\""),
        ("tasks_max", "120%", "'120%' is no number of tasks; try a number from 1 on, a share such as \"25%\", or \"max\""),
        ("tasks_max", False, "'False' is no number of tasks; try a number from 1 on, a share such as \"25%\", or \"max\""),
        ("tasks_max", {}, "a table is no number of tasks; try a number from 1 on, a share such as \"25%\", or \"max\""),
        ("cpu_weight", 0, "0 is no weight from 1 to 10000; try 1"),
        ("io_weight", 10_001, "10001 is no weight from 1 to 10000; try 10000"),
        ("cpu_weight", "50", "must be a whole number from 1 to 10000, and is a text; try 100, which is everybody's"),
        ("io_weight", True, "must be a whole number from 1 to 10000, and is true or false; try 100, which is everybody's"),
        ("victim", "whole-jobs", "'whole-jobs' is none of its words; try \"whole-job\""),
        ("victim", "?", "'?' is none of its words; try \"highest-badness-child\" or \"highest-badness\" or \"whole-job\""),
        ("kind", 3, 'must be a text, and is a number; try "build" or "app" or "session"'),
        ("grace", "5 minutes", "'5 minutes' is no duration; try 5s, 500ms or 0"),
        ("grace", "2h", '7200.0 seconds is no time to wait for memory; try "5s", and at most "90s"'),
        ("grace", float("nan"), 'nan seconds is no time to wait for memory; try "5s", and at most "90s"'),
        ("grace", -0.5, '-0.5 seconds is no time to wait for memory; try "5s", and at most "90s"'),
        ("grace", [], 'must be a duration, and is a list; try "5s", "500ms" or 0'),
        ("protect", "emacs", 'must be a list of shell patterns; try ["gnome-shell", "kwin_*"]'),
        ("protect", ["emacs", 3], 'must be a list of shell patterns; try ["gnome-shell", "kwin_*"]'),
        ("protect", [""], "\"\" matches no process; try a name as 'ps -e' shows it"),
        ("protect", ["/usr/bin/emacs"], "\"/usr/bin/emacs\" matches no process; try a name as 'ps -e' shows it"),
        ("protect", ["a\nb"], "\"a\\u000ab\" matches no process; try a name as 'ps -e' shows it"),
        ("protect", ["gnome-session-binary"], "'gnome-session-binary' matches no process, since the kernel keeps 15 bytes of a name; try 'gnome-session-b'"),
        ("MemoryMax", 1, "no such key; try memory_max"),
        ("memory-max", 1, "no such key; try memory_max"),
        ("CPUWeight", 1, "no such key; try cpu_weight"),
        ("gracee", 1, "no such key; try grace"),
        ("colour", 1, f"no such key; try one of {', '.join(sorted(SLICE_KEYS))}"),
    ],
)  # fmt: skip
def test_what_can_not_be_meant(key: str, value: object, message: str) -> None:
    """One line with the key's path, that ends in what to try."""
    assert errors({"slice": {"build": {key: value}}}) == [f"slice.build.{key}: {message}"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"slice": 3}, "slice: must be a table, and is a number; try [slice.build]"),
        ({"slice": {"build": [{}]}}, "slice.build: must be a table, and is a list; try [slice.build]"),
        ({"slice": {"ci": "8G"}}, "slice.ci: must be a table, and is a text; try [slice.ci]"),
        ({"slice": {"memory_max": "8G"}}, "slice.memory_max: belongs to a slice; try [slice.build] above it"),
        ({"machine": "big"}, "machine: must be a table, and is a text; try [machine]"),
        ({"machine": {"swap": 1}}, "machine.swap: no such key; try swap_free"),
        ({"machine": {"memory_available": "max"}}, 'machine.memory_available: "max" would be short for ever; try "5%"'),
        ({"machine": {"session_reserve": "100%"}}, 'machine.session_reserve: the whole machine in reserve leaves builds nothing; try "10%"'),
        ({"machine": {"vital_oom_score_adj": -1000}}, "machine.vital_oom_score_adj: -1000 is not from -999 to 0; try -999"),
        ({"machine": {"vital_oom_score_adj": 1}}, "machine.vital_oom_score_adj: 1 is not from -999 to 0; try 0"),
        ({"machine": {"vital_oom_score_adj": "low"}},
         "machine.vital_oom_score_adj: must be a whole number from -999 to 0, and is a text; try -500"),
        ({"notifications": {"enabled": "yes"}}, "notifications.enabled: must be true or false, and is a text; try true"),
        ({"notifications": True}, "notifications: must be a table, and is true or false; try [notifications]"),
        ({"pacing": {"enabled": 0}}, "pacing.enabled: must be true or false, and is a number; try true"),
        ({"pacing": {"never_hold": "ctest"}}, 'pacing.never_hold: must be a list of shell patterns; try ["ctest", "*_test"]'),
        ({"pacing": {"never_hold": ["ctest", 3]}}, 'pacing.never_hold: must be a list of shell patterns; try ["ctest", "*_test"]'),
        ({"pacing": {"never_hold": [""]}}, "pacing.never_hold: \"\" matches no process; try a name as 'ps -e' shows it"),
        ({"pacing": {"never_hold": ["/usr/bin/ctest"]}},
         "pacing.never_hold: \"/usr/bin/ctest\" matches no process; try a name as 'ps -e' shows it"),
        ({"pacing": {"borrow": "max"}},
         'pacing.borrow: the whole machine is no loan, the session lives in it; try "512M", or 0 for nothing'),
        ({"pacing": {"borrow": "100%"}},
         'pacing.borrow: the whole machine is no loan, the session lives in it; try "512M", or 0 for nothing'),
        ({"pacing": {"borrow": "auto"}}, 'pacing.borrow: "auto" is no size here; try "512M", or 0 for nothing'),
        ({"pacing": {"borrow": "12Q"}},
         "pacing.borrow: '12Q' is no size; try bytes, a suffix of 1024s (600M, 1.5G), or a percentage (60%)"),
        ({"pacing": {"borrow": True}},
         'pacing.borrow: must be a size, and is true or false; try "8G", "60%", or a number of bytes'),
        ({"pacing": {"never-hold": []}}, "pacing.never-hold: no such key; try never_hold"),
        ({"pacing": {"tokens": True}}, "pacing.tokens: no such key; try one of borrow, enabled, never_hold"),
        ({"pacing": False}, "pacing: must be a table, and is true or false; try [pacing]"),
        ({"slice": {"user": {"memory_max": "90%"}}},
         "slice.user: is systemd's own, with sessions or services in it; try [slice.build]"),
        ({"slice": {"system-ci": {}}},
         "slice.system-ci: is systemd's own, with sessions or services in it; try [slice.build]"),
        ({"slices": {}}, "slices: no such key; try slice"),
        ({"agent": {"memory_max": "8G"}}, "agent: no such key; try [slice.agent]"),
        ({"log_level": 3}, "log_level: no such key; try one of machine, notifications, pacing, slice"),
        ({"\x1b[2J": 3}, '"\\u001b[2J": no such key; try one of machine, notifications, pacing, slice'),
        ({"slice": {"a b": {}}}, "slice.\"a b\": 'a b' is no slice name; try letters, digits, '.', '_' and '-', as in build or app-ci"),
        ({"slice": {"build": {}, "build.slice": {}}}, 'slice."build.slice": is the same slice as slice.build; try one table for both'),
        ({"slice": {"x" * 300: {}}}, f'slice."{"x" * 59}…": is longer than 255 characters; try a short name'),
        ({"slice": {"build": {"memory_high": "2G", "memory_max": "1G"}}},
         "slice.build.memory_high: memory_high is above memory_max; try a lower memory_high, or a higher memory_max"),
        ({"slice": {"build": {"memory_min": "60%", "memory_max": "50%"}}},
         "slice.build.memory_min: memory_min is above memory_max; try a lower memory_min, or a higher memory_max"),
        ({"slice": {"session": {"memory_max": "5%"}}},
         "slice.session.memory_max: memory_low is above memory_max; try a lower memory_low, or a higher memory_max"),
    ],
)  # fmt: skip
def test_tables_and_what_does_not_fit_together(content: dict[str, Any], message: str) -> None:
    """The same, for whole tables and for two values."""
    assert errors(content) == [message]


@pytest.mark.parametrize(
    ("high", "maximum"), [("1G", "1G"), ("60%", "1G"), ("2G", "50%"), ("2G", "auto"), ("max", "1G"), ("2G", "max")]
)
def test_what_only_the_machine_can_compare_is_left_to_it(high: str, maximum: str) -> None:
    """A share and a size, or auto: no error here."""
    assert build(memory_high=high, memory_max=maximum).kind is SliceKind.BUILD


def test_a_number_that_python_refuses_to_write() -> None:
    """0xfff... of any length is TOML to tomli; int() to text is limited to 4300 digits."""
    for key in SLICE_KEYS:
        assert len(errors({"slice": {"build": {key: 1 << 20_000}}})) == 1
    for table, keys in (("machine", MACHINE_KEYS), ("pacing", PACING_KEYS)):
        for key in keys:
            assert len(errors({table: {key: -1 << 20_000}})) == 1


def test_every_error_is_told_with_its_place() -> None:
    """Not only the first, and in the order of the lines, whatever order they are found in."""
    tree = files.load_text(
        b"[slice.build]\nio_weight = 0\ncpu_weight = 0\ncolor = 1\n[machine]\nswap_free = 'no'\n[slice.app]\nkind = 'a'\n",
        "F",
    )
    with pytest.raises(ConfigError) as caught:
        read(tree)
    assert [line.partition("; ")[0] for line in caught.value.lines] == [
        "F:2: slice.build.io_weight: 0 is no weight from 1 to 10000",
        "F:3: slice.build.cpu_weight: 0 is no weight from 1 to 10000",
        "F:4: slice.build.color: no such key",
        "F:6: machine.swap_free: 'no' is no size",
        "F:8: slice.app.kind: 'a' is none of its words",
    ]


def test_errors_of_files_are_told_too() -> None:
    """A file that can't be read does not hide what is wrong in another."""
    tree = Tree({"colour": 1}, {("colour",): Origin("/g", 7)}, ("/g",), ("/f: can't be read; try again",))
    with pytest.raises(ConfigError) as caught:
        read(tree)
    assert caught.value.lines == (
        "/f: can't be read; try again",
        "/g:7: colour: no such key; try one of machine, notifications, pacing, slice",
    )


def test_a_slice_of_ones_own_has_the_defaults_of_its_kind() -> None:
    """A build, unless it says otherwise; in the order of the file, behind the three."""
    config = means(slice={"agent": {"memory_max": "4G"}, "app-mail": {"kind": "app"}, "build": {"cpu_weight": 7}})
    assert [spec.unit for spec in config.slices] == [
        "build.slice",
        "app.slice",
        "session.slice",
        "agent.slice",
        "app-mail.slice",
    ]
    agent, mail = config.slices[3:]
    assert (agent.kind, agent.memory_max, agent.tasks_max) == (SliceKind.BUILD, 4 << 30, Percent(2500))
    assert (mail.kind, mail.victim, mail.grace_seconds) == (SliceKind.APP, VictimRule.HIGHEST_BADNESS, 5.0)
    assert config.slices[0].cpu_weight == 7


def test_a_slice_may_be_named_as_its_unit() -> None:
    """`build.slice` is `build`."""
    assert means(slice={"build.slice": {"memory_max": "4G"}}).slices[0].memory_max == 4 << 30


@pytest.mark.parametrize("kind", ["app", "session"])
def test_protection_is_added_to_and_never_taken_away(kind: str) -> None:
    """The compositor lives, whatever a file says."""
    spec = next(each for each in means(slice={kind: {"protect": ["emacs", "sway"]}}).slices if each.kind.value == kind)
    assert spec.protect == (*PROTECTED, "emacs")
    assert means(slice={kind: {"protect": []}}) == means()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("5", 5), ("500ms", 0.5), ("9ms", 0.009), ("1min 30s", 90), ("1min30s", 90), (" 2 m ", 120), ("1.5 sec", 1.5),
     ("250us", 0.00025), ("1h", 3600), ("0", 0)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    """As systemd.time(7) writes spans; exact where the text is."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "-5s",
        "5 minutes",
        "1e3",
        "nan",
        "5s!",
        "٣s",
        "1.s",
        ".5s",
        "5S",
        "1" * 10,
        "1 30",
        "1min 30",
        "\x00",
    ],
)
def test_no_durations(text: str) -> None:
    """Everything else says what would be one."""
    with pytest.raises(QuantityError, match="is no duration; try 5s, 500ms or 0"):
        parse_duration(text)


SCALARS = (
    st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates() | st.times() | st.datetimes()
    | st.sampled_from(["8G", "60%", "auto", "max", "5s", "whole-job", "build", "app", "session", 100, 1 << 30, 10**60])
)  # fmt: skip
NAMES = st.text(max_size=20) | st.sampled_from(
    [
        *("slice", "machine", "pacing", "notifications", "build", "build.slice", "app"),
        *(key for keys in (SLICE_KEYS, MACHINE_KEYS, PACING_KEYS, NOTIFICATION_KEYS) for key in keys),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
PACING = st.dictionaries(st.sampled_from(list(PACING_KEYS)), VALUES) | VALUES
SLICES = st.dictionaries(
    NAMES, st.dictionaries(st.sampled_from(list(SLICE_KEYS)), VALUES, max_size=4) | VALUES, max_size=3
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=4)
    | st.fixed_dictionaries({"slice": SLICES, "machine": VALUES, "pacing": PACING})
)
def test_never_fails_otherwise(content: dict[str, Any]) -> None:
    """Whatever TOML can hold: a configuration, or lines for a person, each with what to try."""
    try:
        config = read(Tree(content))
    except ConfigError as error:
        lines: tuple[str, ...] | None = error.lines
    else:
        lines = None
        assert {spec.unit for spec in config.slices} >= {"build.slice", "app.slice", "session.slice"}
    assert lines is None or (lines and all(_is_for_people(line) for line in lines)), lines


def _is_for_people(line: str) -> bool:
    return line.isprintable() and len(line) < 700 and ("; try " in line or "; in a slice name" in line)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_can_be_meant(path: Path) -> None:
    """What a person copies works."""
    assert read(files.load_file(path)) != read(Tree())


def test_there_are_examples() -> None:
    """A laptop, agents, a build server."""
    assert [path.stem for path in EXAMPLES] == ["agents", "build-server", "laptop-16g"]


def test_the_manual_has_every_key_and_every_protected_name() -> None:
    """docs/configuration.md can't fall behind."""
    manual = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    for key in (*SLICE_KEYS, *MACHINE_KEYS, *PACING_KEYS, *NOTIFICATION_KEYS):
        assert f"`{key}`" in manual
    for word in (*VictimRule, *SliceKind):
        assert f'`"{word.value}"`' in manual
    assert not [pattern for pattern in PROTECTED if f"`{pattern}`" not in manual]


def test_every_field_of_a_slice_has_a_key() -> None:
    """A property that nobody can set would be no use."""
    fields = set(inspect.signature(SliceSpec).parameters) - {"unit"}
    assert {field for field, _ in SLICE_KEYS.values()} == fields
    assert {field for field, _ in PACING_KEYS.values()} == set(inspect.signature(PacingSpec).parameters)


@pytest.mark.parametrize(
    ("table", "meant"),
    [
        ({}, PacingSpec(enabled=True, never_hold=(), borrow=0)),
        ({"enabled": False}, PacingSpec(enabled=False)),
        ({"never_hold": ["ctest", "*_test"]}, PacingSpec(never_hold=("ctest", "*_test"))),
        # build/steps.py cuts it as the kernel does.
        ({"never_hold": ["test-of-the-whole-thing"]}, PacingSpec(never_hold=("test-of-the-whole-thing",))),
        ({"never_hold": []}, PacingSpec()),
        ({"borrow": "512M"}, PacingSpec(borrow=512 << 20)),
        ({"borrow": "5%"}, PacingSpec(borrow=Percent(500))),
        ({"borrow": "0"}, PacingSpec()),
    ],
)
def test_pacing(table: dict[str, object], meant: PacingSpec) -> None:
    """What the table may hold; it is on, nobody is named, and nothing is lent."""
    assert means(pacing=table).pacing == meant
