# SPDX-License-Identifier: LGPL-2.1-or-later
"""What pacing is worth, simulated: slicemgr's policy beside other rules, the best fixed -jN, and the optimum.

    python3 -m tests.bench.pacing            # a Markdown table, some two minutes of CPU time; the same on every machine
    python3 -m tests.bench.pacing 101 110    # slicemgr alone on ten more of each sort, which none of its numbers was
                                             # chosen by

Makespans as ratios to the best fixed -jN that fits, averaged over some builds of each sort; nothing runs, nothing waits.
"""

import sys
from collections.abc import Callable
from statistics import mean

from tests.bench.accounting import heading, row
from tests.pacing.builds import BUILDS, Build
from tests.pacing.contestants import Banker, FirstCome, Oomstaller, Paced, PauseNewest, SumOfPeaks
from tests.pacing.optimum import best_fixed, clairvoyant, lower_bound
from tests.pacing.simulator import Outcome, Rule, StuckError, simulate

SEEDS = range(1, 4)

RULES: dict[str, Callable[[Build], Rule]] = {
    "sum of peaks, known": SumOfPeaks,
    "banker, known": Banker,
    "pause newest": lambda _: PauseNewest(),
    "oomstaller": lambda _: Oomstaller(),
    "nobody": lambda _: FirstCome(),
}


def outcome(build: Build, rule: Rule) -> Outcome | None:
    """None if it stood still for ever."""
    try:
        return simulate(build, rule)
    except StuckError:
        return None


def cell(pairs: list[tuple[Outcome | None, float]]) -> str:
    """Ratio, kills, and stops of several builds; a build that never ended has no ratio."""
    ended = [(each, best) for each, best in pairs if each is not None]
    if not ended:
        return "stuck"
    text = f"{mean(each.makespan / best for each, best in ended):.2f}"
    kills, stops = sum(each.kills for each, _ in ended), sum(each.stops for each, _ in ended)
    stuck = len(pairs) - len(ended)
    return f"{text}, {kills}, {stops}" + (f" ({stuck} stuck)" if stuck else "")


def ours(seeds: range) -> None:
    """slicemgr on other builds of the same sorts: mean and worst, so that a mean hides nothing."""
    heading("builds", "slicemgr known", "worst", "slicemgr cold", "worst", "cold builds that lost a step")
    for name, make in BUILDS.items():
        known: list[tuple[Outcome | None, float]] = []
        cold: list[tuple[Outcome | None, float]] = []
        lost = 0
        for seed in seeds:
            build = make(seed)
            again = build.varied(seed + 50)
            first = simulate(build, Paced())
            lost += first.kills > 0
            cold.append((first, best_fixed(build).makespan))
            known.append((simulate(again, Paced(first.profiles)), best_fixed(again).makespan))
        worst = [max(each.makespan / best for each, best in pairs if each is not None) for pairs in (known, cold)]
        row(name, cell(known), f"{worst[0]:.2f}", cell(cold), f"{worst[1]:.2f}", f"{lost} of {len(seeds)}")


def main() -> int:
    """Print it."""
    if len(sys.argv) == 3:
        ours(range(int(sys.argv[1]), int(sys.argv[2]) + 1))
        return 0
    heading(
        "builds",
        "best -jN",
        "lower bound",
        "clairvoyant",
        "slicemgr known",
        "slicemgr cold",
        "peak known, cold",
        *RULES,
    )
    for name, make in BUILDS.items():
        fixed: list[str] = []
        bounds: list[float] = []
        seers: list[float] = []
        known: list[tuple[Outcome | None, float]] = []
        cold: list[tuple[Outcome | None, float]] = []
        others: dict[str, list[tuple[Outcome | None, float]]] = {rule: [] for rule in RULES}
        peaks: list[tuple[float, float]] = []
        for seed in SEEDS:
            build = make(seed)
            again = build.varied(seed + 50)
            best, best_again = best_fixed(build), best_fixed(again)
            fixed.append(f"-j{best.jobs}")
            bounds.append(lower_bound(build) / best.makespan)
            seers.append(clairvoyant(build, shuffles=6) / best.makespan)
            first = simulate(build, Paced())
            second = simulate(again, Paced(first.profiles))
            cold.append((first, best.makespan))
            known.append((second, best_again.makespan))
            peaks.append((second.peak_bytes / again.limit_bytes, first.peak_bytes / build.limit_bytes))
            for rule, contestant in RULES.items():
                others[rule].append((outcome(build, contestant(build)), best.makespan))
        row(
            name,
            " ".join(sorted(set(fixed), key=lambda jobs: int(jobs[2:]))),
            f"{mean(bounds):.2f}",
            f"{mean(seers):.2f}",
            cell(known),
            cell(cold),
            f"{max(each for each, _ in peaks):.2f}, {max(each for _, each in peaks):.2f}",
            *(cell(pairs) for pairs in others.values()),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
