"""Which arrival rate still meets an objective: a trial at each of a few rates, closing in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .load import Run
from .metrics import Summary, summarize
from .requests import ANSWERED
from .scenario import Phase, Saturation, Scenario


@dataclass
class Trial:
    """One rate, tried.

    Attributes:
        rate: Wanted, in arrivals a second.
        why: Why the rate is missed; "" where it is met.
    """

    rate: float
    run: Run
    summary: Summary
    why: str

    @property
    def offered(self) -> float:
        """What came, by chance, in arrivals a second."""
        return len({record.caller for record in self.run.measured}) / self._seconds

    @property
    def answered(self) -> float:
        """Answers a second while callers came: fewer than requests came where a queue grows."""
        begin, end = self._window
        return sum(r.outcome == ANSWERED and begin < r.ended <= end for r in self.run.records) / self._seconds

    @property
    def under_way(self) -> tuple[int, int]:
        """Requests that waited or were answered at the trial's begin and at its end: as many, or ever more."""
        begin, end = (sum(r.due <= at < r.ended for r in self.run.records) for at in self._window)
        return begin, end

    @property
    def _seconds(self) -> float:
        return self.run.scenario.phases[-1].seconds

    @property
    def _window(self) -> tuple[float, float]:
        end = self.run.scenario.seconds
        return end - self._seconds, end

    @property
    def met(self) -> bool:
        """Whether the objective was."""
        return not self.why


@dataclass
class Search:
    """What was asked, and the trials that answer it so far."""

    asked: Saturation
    trials: list[Trial] = field(default_factory=list)
    interrupted: bool = False

    @property
    def highest_met(self) -> float | None:
        """The highest rate that was met, below all that were missed."""
        missed = self.lowest_missed
        rates = (trial.rate for trial in self.trials if trial.met and (missed is None or trial.rate < missed))
        return max(rates, default=None)

    @property
    def lowest_missed(self) -> float | None:
        """The lowest rate that was missed."""
        return min((trial.rate for trial in self.trials if not trial.met), default=None)

    @property
    def next_rate(self) -> float | None:
        """The rate to try next: twice the highest that was met, then between met and missed; None at the end."""
        lowest, highest = self.asked.rates
        if not self.trials:
            return lowest
        met, missed = self.highest_met, self.lowest_missed
        if met is None or met >= highest:
            return None
        if missed is None:
            return min(highest, 2 * met)
        return None if missed - met <= self.asked.precision * missed else (met + missed) / 2


def search(scenario: Scenario, run_trial: Callable[[Scenario], Run], report: Callable[[Trial], None]) -> Search:
    """Try rates until the search is closed, or interrupted.

    Args:
        scenario: Whose requests are sent; its phases are not looked at.
        run_trial: Runs a scenario.
        report: Called with each trial.
    """
    found = Search(scenario.saturation)
    while (rate := found.next_rate) is not None:
        run = run_trial(_trial_scenario(scenario, rate, number=len(found.trials)))
        if run.interrupted:
            found.interrupted = True
            return found
        trial = judge(run, rate)
        found.trials.append(trial)
        report(trial)
    return found


def judge(run: Run, rate: float) -> Trial:
    """Return the trial that `run` was."""
    summary = summarize(run.measured, run.scenario.objectives)
    return Trial(rate, run, summary, _why_missed(summary, run.scenario.saturation))


def _trial_scenario(scenario: Scenario, rate: float, *, number: int) -> Scenario:
    asked, level = scenario.saturation, (rate, rate)
    phases = [Phase(seconds=asked.seconds_at(rate), rate=level, name=f"{rate:.2f}/s")]
    if asked.warmup_seconds:
        phases.insert(0, Phase(seconds=asked.warmup_seconds, rate=level, name="warm-up", warmup=True))
    return replace(scenario, phases=tuple(phases), seed=scenario.seed + number)


def _why_missed(summary: Summary, asked: Saturation) -> str:
    num_lost = summary.num_failed + summary.num_unfinished
    if num_lost > asked.max_error_share * summary.num_sent:
        reason = summary.errors[0].reason if summary.errors else "unfinished"
        return f"{num_lost} of {summary.num_sent} failed ({reason})"
    figure = summary.percentile(asked.metric, asked.percentile)
    if figure is None:
        return "no answer"
    return "" if figure < asked.below_ms else f"p{asked.percentile} {figure:.0f} ms"
