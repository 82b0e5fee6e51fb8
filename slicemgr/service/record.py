# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports as data, and back: what the history keeps, and what the control socket sends, one JSON line each.

The keys are the names of the dataclasses' fields, so a new field is in it by itself. The rules, for readers in any
language:

- An enum is its name in small letters with dashes (`still-there`): the values are for people, and may be reworded.
- A string that is no UTF-8 is an array of its bytes, as in journalctl -o json; every other string is a string.
- A number is a finite one: NaN and Infinity, which Python's json would write and read, are no JSON.
- Unknown keys are ignored, and a missing one has its default if the field has one: older and newer versions read
  each other's records. What a key means never changes within a schema.
"""

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from slicemgr.service.report import (
    GuardFailedReport,
    HighReport,
    KernelKillReport,
    KillReport,
    NoVictimReport,
    PacingFailedReport,
    Report,
    SignalRefusedReport,
)

REPORT_SCHEMA: Final = "slicemgr.report/1"
RECORD_SCHEMA: Final = "slicemgr.record/1"
"""Both grow by new keys only; a key that changes its meaning makes it /2."""

Data: TypeAlias = Mapping[str, object]

_KINDS: Final[Mapping[str, type[Report]]] = {
    "kill": KillReport,
    "high": HighReport,
    "kernel-kill": KernelKillReport,
    "no-victim": NoVictimReport,
    "guard-failed": GuardFailedReport,
    "pacing-failed": PacingFailedReport,
    "signal-refused": SignalRefusedReport,
}

_Value = TypeVar("_Value")


class RecordError(ValueError):
    """The data is no report; `key` says where, as in `report.victim.identity.pid`."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"'{key}' {problem}")
        self.key = key


@dataclass(frozen=True, slots=True)
class Record:
    """A report, and where and when on the calendar it belongs."""

    report: Report
    wall_seconds: float
    """Seconds since 1970; a report itself knows the monotonic clock only, which says nothing after a reboot."""
    slice: str = ""
    """`build.slice`; empty if it was nobody's."""
    job: str = ""
    """The unit, `slicemgr-make-4711.scope`, or the name of a job without a cgroup; empty if it was not a job's."""


def report_to_data(report: Report) -> dict[str, object]:
    """A report for json.dumps."""
    kind = next(kind for kind, shape in _KINDS.items() if isinstance(report, shape))
    return {"schema": REPORT_SCHEMA, "kind": kind, **_fields_as_data(report)}


def report_from_data(data: object) -> Report:
    """A report as json.loads gives it. Raises RecordError."""
    return _report(data, "report")


def record_to_data(record: Record) -> dict[str, object]:
    """A record for json.dumps."""
    return {
        "schema": RECORD_SCHEMA,
        "wall_seconds": record.wall_seconds,
        "slice": _as_data(record.slice),
        "job": _as_data(record.job),
        "report": report_to_data(record.report),
    }


def record_from_data(data: object) -> Record:
    """A record as json.loads gives it. Raises RecordError."""
    fields = _object(data, "record", RECORD_SCHEMA)
    if "report" not in fields:
        raise RecordError("report", "is missing")
    return Record(
        report=_report(fields["report"], "report"),
        wall_seconds=_required(fields, "wall_seconds", float),
        slice=_required(fields, "slice", str),
        job=_required(fields, "job", str),
    )


def report_to_line(report: Report) -> bytes:
    """One line of JSON in ASCII, with its newline: for the control socket."""
    return _line(report_to_data(report))


def report_from_line(line: bytes) -> Report:
    """Raises RecordError."""
    return report_from_data(_loaded(line))


def record_to_line(record: Record) -> bytes:
    """One line of JSON in ASCII, with its newline: for the history."""
    return _line(record_to_data(record))


def record_from_line(line: bytes) -> Record:
    """Raises RecordError."""
    return record_from_data(_loaded(line))


def _line(data: Data) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"


def _loaded(line: bytes) -> object:
    try:
        return json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # A torn line, or one that wants to be a maze.
        raise RecordError("line", "is no JSON") from error


def _refuse_constant(word: str) -> object:
    raise ValueError(word)


def _report(data: object, key: str) -> Report:
    fields = _object(data, key, REPORT_SCHEMA)
    kind = _required(fields, "kind", str, key)
    shape = _KINDS.get(kind)
    if shape is None:
        raise RecordError(f"{key}.kind", f"is of no kind that this version knows: {kind!r}")
    report: Report = _instance(shape, fields, key)
    return report


def _object(data: object, key: str, schema: str) -> Data:
    if not isinstance(data, dict):
        raise RecordError(key, "is no object")
    if data.get("schema") != schema:
        raise RecordError(f"{key}.schema", f"is not {schema!r}")
    return data


def _required(fields: Data, name: str, shape: type[_Value], within: str = "") -> _Value:
    key = f"{within}.{name}".lstrip(".")
    if name not in fields:
        raise RecordError(key, "is missing")
    value: _Value = _from_data(shape, fields[name], key)
    return value


def _fields_as_data(value: Any) -> dict[str, object]:
    return {field.name: _as_data(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _as_data(value: object) -> object:
    match value:
        case enum.Enum():
            return _enum_word(value)
        case str():
            return _text_as_data(value)
        case tuple():
            return [_as_data(each) for each in value]
        case None | bool() | int() | float():
            return value
        case _:
            return _fields_as_data(value)


def _text_as_data(text: str) -> object:
    try:
        text.encode()
    except UnicodeEncodeError:
        # surrogateescape as os.fsdecode made it; no other surrogate comes from the kernel.
        return list(text.encode(errors="surrogateescape"))
    return text


def _enum_word(member: enum.Enum) -> str:
    return member.name.lower().replace("_", "-")


@functools.cache
def _types_of(shape: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(shape)


def _instance(shape: Any, data: object, key: str) -> Any:
    """A dataclass from its fields."""
    if not isinstance(data, dict):
        raise RecordError(key, "is no object")
    hints = _types_of(shape)
    found: dict[str, object] = {}
    for field in dataclasses.fields(shape):
        if field.name in data:
            found[field.name] = _from_data(hints[field.name], data[field.name], f"{key}.{field.name}")
        elif field.default is dataclasses.MISSING:
            raise RecordError(f"{key}.{field.name}", "is missing")
    return shape(**found)


def _from_data(shape: Any, data: object, key: str) -> Any:
    """A value of this type; the types are those that the dataclasses of reports are made of."""
    if isinstance(shape, types.UnionType):  # `X | None` is the only one.
        if data is None:
            return None
        shape = next(each for each in typing.get_args(shape) if each is not types.NoneType)
    if typing.get_origin(shape) is tuple:
        return _tuple(typing.get_args(shape), data, key)
    if dataclasses.is_dataclass(shape):
        return _instance(shape, data, key)
    if issubclass(shape, enum.Enum):
        return _enum(shape, data, key)
    if shape is str:
        return _text(data, key)
    # bool is an int to Python, and true is no pid.
    accepted = {int: (int,), float: (int, float), bool: (bool,)}[shape]
    if not isinstance(data, accepted) or (shape is not bool and isinstance(data, bool)):
        raise RecordError(key, f"is no {shape.__name__}")
    return _float(data, key) if shape is float else data


def _float(number: Any, key: str) -> float:
    try:
        value = float(number)
    except OverflowError as error:
        raise RecordError(key, "is beyond all numbers") from error
    if not math.isfinite(value):  # 1e999 is JSON, and infinite to Python.
        raise RecordError(key, "is beyond all numbers")
    return value


def _tuple(shapes: tuple[Any, ...], data: object, key: str) -> tuple[object, ...]:
    if not isinstance(data, list):
        raise RecordError(key, "is no array")
    if shapes[-1] is Ellipsis:
        shapes = (shapes[0],) * len(data)
    if len(shapes) != len(data):
        raise RecordError(key, f"has not {len(shapes)} elements")
    return tuple(
        _from_data(shape, each, f"{key}[{at}]") for at, (shape, each) in enumerate(zip(shapes, data, strict=True))
    )


def _enum(shape: type[enum.Enum], data: object, key: str) -> enum.Enum:
    for member in shape:
        if _enum_word(member) == data:
            return member
    raise RecordError(key, f"is none of {', '.join(_enum_word(member) for member in shape)}")


def _text(data: object, key: str) -> str:
    if isinstance(data, str):
        return data
    if isinstance(data, list):
        try:
            return bytes(data).decode(errors="surrogateescape")
        except (TypeError, ValueError):
            pass
    raise RecordError(key, "is neither a string nor an array of bytes")
