# SPDX-License-Identifier: LGPL-2.1-or-later
"""The XML files as tables: which methods, properties and signals there are, and of what types."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gi.repository import Gio

_HERE: Final = Path(__file__).parent
_SILENT: Final = frozenset({"false", "const"})
_EMITS: Final = "org.freedesktop.DBus.Property.EmitsChangedSignal"


@dataclass(frozen=True, slots=True)
class Method:
    """Its arguments, and what it answers."""

    arguments: tuple[str, ...]
    answer: tuple[str, ...]

    @property
    def answer_signature(self) -> str:
        """As one tuple, which is what is sent."""
        return "(" + "".join(self.answer) + ")"


class InterfaceTable:
    """All interfaces that we publish."""

    def __init__(self) -> None:
        self.infos: dict[str, Any] = {}
        """Gio's own descriptions, by interface."""
        self.methods: dict[tuple[str, str], Method] = {}
        self.properties: dict[tuple[str, str], str] = {}
        self.signals: dict[tuple[str, str], str] = {}
        """(interface, name) -> the signature of all arguments, as one tuple."""
        silent: set[tuple[str, str]] = set()
        for info in _infos():
            self.infos[info.name] = info
            for method in info.methods:
                self.methods[info.name, method.name] = Method(_types(method.in_args), _types(method.out_args))
            for signal in info.signals:
                self.signals[info.name, signal.name] = "(" + "".join(_types(signal.args)) + ")"
            for each in info.properties:
                self.properties[info.name, each.name] = each.signature
                if {note.key: note.value for note in each.annotations or ()}.get(_EMITS) in _SILENT:
                    silent.add((info.name, each.name))
        self.silent = frozenset(silent)
        """Properties that tell nobody when they change."""


def _infos() -> Iterator[Any]:
    for name in ("org.slicemgr1.xml", "freedesktop.xml"):
        yield from Gio.DBusNodeInfo.new_for_xml((_HERE / name).read_text(encoding="utf-8")).interfaces


def _types(arguments: Any) -> tuple[str, ...]:
    return tuple(each.signature for each in arguments or ())
