# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a usage error looks: the argparse of every verb. Heavy (9 ms): imported by who needs it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.printable import one_line, print_out, say, shown

if TYPE_CHECKING:
    from collections.abc import Sequence


class OneLineParser(argparse.ArgumentParser):
    """A usage error is one line that ends in what to try; the full help is for who asks for it."""

    def __init__(self, *, prog: str, description: str, epilog: str, usage: str | None = None) -> None:
        """Texts are shown as they are written; an option has one spelling, so that another can be added later."""
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        say(f"{one_line(message)}; try '{self.prog} --help'", prog=self.prog)
        self.exit(ExitCode.USAGE)

    # As argparse has it, with Any where the namespace may be an object of ours.
    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The options; exits for --help, and with 2 for what can't be meant.

        An unknown option is named before what is missing: argparse would tell `--frob` that VERB and rest are required.
        """
        operands = [each for each in self._actions if not each.option_strings]
        for each in operands:
            each.required = False
        options, unknown = self.parse_known_args(args, namespace)
        if told := " ".join(shown(each) for each in unknown if each != "--"):
            self.error(f"unrecognized arguments: {told}")
        for each in operands:
            if each.nargs is None and getattr(options, each.dest) is None:
                self.error(f"no {each.metavar} given")
        return options

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = ", ".join(f"'{each}'" for each in action.choices)
            raise argparse.ArgumentError(action, f"invalid choice: '{shown(value)}' (choose from {choices})")

    def _print_message(self, message: str, file: object = None) -> None:
        """Help and version, as errors do not come this way; whether somebody reads them is no matter."""
        print_out(message, self.prog)


_DESCRIPTION = """\
Run builds in a memory limit of their own. When one runs out, slicemgr ends one process of that build, the
one with the highest badness, and tells you which and why. Nothing outside the build is touched."""

_EPILOG = """\
verbs for a build:
  run         run a command under memory limits
  pause       let all of a job stand still
  resume      let it go on

verbs that look:
  status      slices and jobs with their limits, usage and pressure, and what was done last
  list        the jobs that run now
  explain     who would be ended now in a slice, and why the others would not
  kills       what was ended, when and why
  steps       the steps of builds that held the most memory
  jobs        how many steps of a build fit at once, for make -j
  monitor     what the service does, as it happens

verbs for the service:
  set         other limits for a slice or a job
  config      the merged configuration, and where each value comes from
  daemon      guard the slices of this user, or of the machine
  session     the login hook: tell a daemon of a desktop session
  install     put units and completions in place, or take them away

'slicemgr VERB --help' tells more."""


def parse_verb(arguments: Sequence[str], verbs: Sequence[str], version: str) -> tuple[str, list[str]]:
    """The verb and what follows it; exits for --help, --version and anything else."""
    parser = OneLineParser(
        prog="slicemgr",
        usage="slicemgr [--help] [--version] VERB ...",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"slicemgr {version}")
    parser.add_argument("verb", choices=verbs, metavar="VERB", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    if not arguments:
        parser.error("no verb given")
    parsed = parser.parse_args(arguments)
    return parsed.verb, parsed.rest
