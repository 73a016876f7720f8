"""The highest arrival rate that meets an objective: a trial at each of a few rates, closing in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .load import Run
from .metrics import Figures, percentile, summarize
from .requests import ANSWERED
from .scenario import Phase, Saturation, Scenario


@dataclass
class Search:
    """What was asked, the trials so far (see `judge`), and what they showed."""

    asked: Saturation
    trials: list[Figures] = field(default_factory=list)
    highest_met: float | None = None
    lowest_missed: float | None = None
    interrupted: bool = False
    run: Run | None = None  # the first trial's

    def add(self, trial: Figures, run: Run) -> None:
        """Take the trial of `next_rate` into account."""
        self.run = self.run or run
        self.trials.append(trial)
        if trial["met"]:
            self.highest_met = trial["rate"]
        else:
            self.lowest_missed = trial["rate"]

    @property
    def next_rate(self) -> float | None:
        """The next rate to try: twice the highest met, then between met and missed; None at the end."""
        lowest, highest = self.asked.rates
        met, missed = self.highest_met, self.lowest_missed
        if not self.trials:
            return lowest
        if met is None or met >= highest:
            return None
        if missed is None:
            return min(highest, 2 * met)
        return None if missed - met <= self.asked.precision * missed else (met + missed) / 2


def search(scenario: Scenario, run_trial: Callable[[Scenario], Run], report: Callable[[Figures], None]) -> Search:
    """Try rates until the search has an answer or is interrupted.

    Args:
        scenario: Its requests are sent; its phases are not used.
        run_trial: Runs a scenario.
        report: Called with each trial.
    """
    found = Search(scenario.saturation)
    while (rate := found.next_rate) is not None:
        run = run_trial(_trial_scenario(scenario, rate, number=len(found.trials)))
        if run.interrupted:
            found.interrupted = True
            break
        found.add(judge(run, rate), run)
        report(found.trials[-1])
    return found


def judge(run: Run, rate: float) -> Figures:
    """Return the trial that the last phase of `run` was: its figures, and

    rate, offered: Arrivals per second, as wanted and as they came by chance.
    met, why: Whether the objective was met, and why not.
    answered: Answers per second during the trial; below `offered` where a queue grows.
    under_way: Running requests when the trial began, and when it ended.
    """
    seconds, end = run.scenario.phases[-1].seconds, run.scenario.seconds
    begin = end - seconds
    num_answered = sum(record.outcome == ANSWERED and begin < record.ended <= end for record in run.records)
    figures = summarize(run.measured, run.scenario.objectives)
    why = _why_missed(figures, run.scenario.saturation)
    return {
        "rate": rate,
        "offered": len({record.caller for record in run.measured}) / seconds,
        "met": not why,
        "why": why,
        "answered": num_answered / seconds,
        "under_way": [sum(record.due <= at < record.ended for record in run.records) for at in (begin, end)],
        **figures,
    }


def _trial_scenario(scenario: Scenario, rate: float, *, number: int) -> Scenario:
    asked, level = scenario.saturation, (rate, rate)
    phases = [Phase(seconds=asked.seconds_at(rate), rate=level, name=f"{rate:.2f}/s")]
    if asked.warmup_seconds:
        phases.insert(0, Phase(seconds=asked.warmup_seconds, rate=level, name="warm-up", warmup=True))
    return scenario.model_copy(update={"phases": tuple(phases), "seed": scenario.seed + number})


def _why_missed(figures: Figures, asked: Saturation) -> str:
    num_lost = figures["failed_count"] + figures["unfinished_count"]
    if num_lost > asked.max_error_share * figures["sent_count"]:
        reason = figures["errors"][0]["reason"] if figures["errors"] else "unfinished"
        return f"{num_lost} of {figures['sent_count']} failed ({reason})"
    figure = percentile(figures, asked.metric, asked.percentile)
    if figure is None:
        return "no answer"
    return "" if figure < asked.below_ms else f"p{asked.percentile} {figure:.0f} ms"
