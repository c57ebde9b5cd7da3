"""What a rule is: a pure function from the case to judgements, with its own terms written beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from netdiag.diagnosis.finding import Judgement, Section
from netdiag.evidence import Evidence, Run
from netdiag.plan.model import Plan
from probes.model import value


@value
class Case:
    """What a rule may look at. It never looks at the clock, the environment or another rule's findings."""

    plan: Plan
    evidence: Evidence

    @classmethod
    def of(cls, run: Run) -> Case:
        return cls(plan=run.plan, evidence=run.evidence)


@value
class Rule:
    """``judge`` yields, for each subject that it concerns, exactly one of Finding, RuledOut, NotMeasured."""

    code: str
    section: Section
    fires: str  # when it fires, for the reader of `netdiag explain`
    quiet: str  # when it does not, the look-alike included
    refuted_by: str
    judge: Callable[[Case], Iterable[Judgement]]
