"""docs/reference/accuracy.md: trials counted per code and per scenario. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from netdiag.diagnosis.catalogue import RULES
from netdiag.diagnosis.thresholds import LEVEL
from netdiag.lab.accuracy import Trial
from netdiag.lab.scenario import Scenario
from probes.stats.intervals import wilson
from probes.stats.summaries import nearest_rank

_HEAD = """# Accuracy: what the lab says

Written by `make accuracy`; do not edit. Each trial is one scenario of `netdiag/lab/scenarios` with one seed, which
draws strengths and places: a real fault between real servers in network namespaces, and a real `netdiag run` from the
application's host. A code is *found* where it is named as a cause at the place that was broken, or folded under
another cause that was there as well; *wrongly named* is anything that the scenario neither demands nor lists as a
consequence. Notes do not count. Intervals are Wilson's, {level:.0%}.
"""


def page(trials: Sequence[Trial], scenarios: Sequence[Scenario]) -> str:
    """Markdown. ``trials`` are of one version of the code."""
    counted = [trial for trial in trials if trial.trouble is None]
    sections = (
        _HEAD.format(level=LEVEL),
        _facts(counted, scenarios),
        "## Per code\n\n" + "\n".join(_code_rows(counted, scenarios)) + "\n",
        "## Per scenario\n\n" + "\n".join(_scenario_rows(counted, scenarios)) + "\n",
        _misjudged(counted),
        _troubles([trial for trial in trials if trial.trouble is not None], counted, scenarios),
    )
    return "\n".join(section for section in sections if section)


def share(count: int, total: int) -> str:
    """``9/10 (60-98%)``; a dash where there was nothing to count."""
    interval = wilson(count, total, LEVEL)
    if interval is None:
        return "-"
    return f"{count}/{total} ({interval.low:.0%}-{interval.high:.0%})".replace("%-", "-")


def _facts(trials: Sequence[Trial], scenarios: Sequence[Scenario]) -> str:
    if not trials:
        return "No trial has been run.\n"
    days = sorted({trial.started.date().isoformat() for trial in trials})
    seeds = sorted({trial.seed for trial in trials})
    lines = [
        f"- Date: {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''} (UTC)",
        f"- Code: `{trials[0].code}` (digest of netdiag without the lab, and probes)",
        f"- Seeds: {', '.join(map(str, seeds))}",
        f"- All: {_sum(trials)}",
        *(f"- {kind}: {_sum(of)}" for kind, of in _kinds(trials, scenarios) if of),
    ]
    return "\n".join(lines) + "\n"


def _sum(trials: Sequence[Trial]) -> str:
    right, verdicts = sum(trial.right for trial in trials), sum(trial.verdict_right for trial in trials)
    return (
        f"{len(trials)} trials; verdict right {share(verdicts, len(trials))}; wholly right {share(right, len(trials))}"
    )


def _kinds(trials: Sequence[Trial], scenarios: Sequence[Scenario]) -> Iterator[tuple[str, list[Trial]]]:
    known = {scenario.name: scenario for scenario in scenarios}
    ruled = [trial for trial in trials if trial.scenario in known and known[trial.scenario].implemented]
    yield "Faults whose codes have a rule", [t for t in ruled if not known[t.scenario].is_healthy]
    yield "Healthy, most with a look-alike of a fault", [t for t in ruled if known[t.scenario].is_healthy]
    yield "Faults of which at least one code has no rule yet", [t for t in trials if t not in ruled]


def _code_rows(trials: Sequence[Trial], scenarios: Sequence[Scenario]) -> Iterator[str]:
    yield "| code | rule | found | missed | wrongly named |"
    yield "|---|---|---|---|---|"
    ruled = {rule.code for rule in RULES}
    named = {code for trial in trials for code in trial.wrong_codes}
    for code in sorted(ruled | named | {code for scenario in scenarios for code in scenario.codes}):
        found = sum(trial.found.count(code) for trial in trials)
        missed = sum(trial.missed.count(code) for trial in trials)
        wrong = sum(code in trial.wrong_codes for trial in trials)
        row = (f"`{code}`", "yes" if code in ruled else "none yet", share(found, found + missed), str(missed))
        yield f"| {' | '.join(row)} | {share(wrong, len(trials))} |"


def _scenario_rows(trials: Sequence[Trial], scenarios: Sequence[Scenario]) -> Iterator[str]:
    yield "| scenario | what | verdict right | wholly right | seconds (median) |"
    yield "|---|---|---|---|---|"
    for scenario in scenarios:
        of = [trial for trial in trials if trial.scenario == scenario.name]
        seconds = nearest_rank(sorted(trial.seconds for trial in of), 50)
        what = scenario.title + ("" if scenario.implemented else " *(no rule yet)*")
        took = "-" if seconds is None else f"{seconds:.0f}"
        verdicts, right = (f"{sum(kind)}/{len(of)}" for kind in _judged(of))
        yield f"| `{scenario.name}` | {what} | {verdicts} | {right} | {took} |"


def _judged(trials: Sequence[Trial]) -> tuple[list[bool], list[bool]]:
    return [trial.verdict_right for trial in trials], [trial.right for trial in trials]


def _misjudged(trials: Iterable[Trial]) -> str:
    rows = [_misjudgement(trial) for trial in trials if not trial.right]
    if not rows:
        return ""
    head = "## Misjudged, one by one\n\n| scenario | seed | verdict | missed | wrongly named |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _misjudgement(trial: Trial) -> str:
    verdict = f"{trial.verdict}{'' if trial.verdict_right else ' (wrong)'}"
    missed, wrong = "<br>".join(trial.missed) or "-", "<br>".join(trial.wrong) or "-"
    return f"| `{trial.scenario}` | {trial.seed} | {verdict} | {missed} | {wrong} |"


def _troubles(troubled: Sequence[Trial], counted: Sequence[Trial], scenarios: Sequence[Scenario]) -> str:
    """What the lab itself could not do, and what was not tried: neither is held against netdiag, nor for it."""
    tried = {trial.scenario for trial in (*counted, *troubled)}
    rows = [f"- `{t.scenario}`, seed {t.seed}: {t.trouble}" for t in troubled]
    rows += [f"- `{scenario.name}`: not tried" for scenario in scenarios if scenario.name not in tried]
    return "## Not counted\n\n" + "\n".join(rows) + "\n" if rows else ""
