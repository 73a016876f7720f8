"""What a run does."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from video_llava_client import OptionError

KINDS = ("video_cold", "video_warm", "image", "text", "chat")
"""What a caller may come with: frames that no cache has seen, or has; an image; nothing; a conversation."""

PERCENTILES = (50, 90, 99)


class ScenarioError(OptionError):
    """A scenario cannot be found, read or used; the text names the value."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How often each of `KINDS` comes, as weights of any sum.

    Raises:
        ScenarioError: A weight is below 0, or all are 0.
    """

    video_cold: float = 0.0
    video_warm: float = 0.0
    image: float = 0.0
    text: float = 0.0
    chat: float = 0.0

    def __post_init__(self) -> None:
        for kind, weight in zip(KINDS, self.weights, strict=True):
            if weight < 0:
                raise ScenarioError(f"[mix] {kind} is a weight, 0 or more, got {weight}")
        if not any(self.weights):
            raise ScenarioError(f"[mix] gives no kind of request a weight: name one of {', '.join(KINDS)}")

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights in the order of `KINDS`."""
        return tuple(getattr(self, kind) for kind in KINDS)


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What a request is like; a pair is a range, its ends included, from which each request draws.

    Attributes:
        question_words: Length of a question.
        output_tokens: `max_tokens` of a request.
        ignore_eos: Whether an answer always has all of those tokens, so that runs are comparable.
        warm_videos: How many videos are warm: each is asked about once before the measurement.
        turns: Questions of a conversation (about a video that was cold at its beginning).
        think_seconds: Between an answer and the same caller's next question, in a conversation or a closed loop.
        cancel_share: Share of the requests, 0 to 1, whose caller leaves before the end.
        cancel_after_tokens: How many tokens such a caller waits for.

    Raises:
        ScenarioError: A value is out of its range.
    """

    question_words: tuple[int, int] = (6, 24)
    output_tokens: tuple[int, int] = (16, 64)
    ignore_eos: bool = True
    warm_videos: int = 4
    turns: tuple[int, int] = (2, 4)
    think_seconds: tuple[float, float] = (0.0, 0.0)
    cancel_share: float = 0.0
    cancel_after_tokens: tuple[int, int] = (1, 8)

    def __post_init__(self) -> None:
        for name in ("question_words", "output_tokens", "turns", "cancel_after_tokens"):
            _check_range("requests", name, getattr(self, name), least=1)
        _check_range("requests", "think_seconds", self.think_seconds, least=0)
        if self.warm_videos < 1:
            raise ScenarioError(f"[requests] warm_videos must be at least 1, got {self.warm_videos}")
        if not 0 <= self.cancel_share <= 1:
            raise ScenarioError(f"[requests] cancel_share must be 0 to 1, got {self.cancel_share}")


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """The service level that goodput counts: an answer must meet each that is given. Milliseconds, as in AIPerf.

    Raises:
        ScenarioError: One is not above 0.
    """

    time_to_first_token_ms: float | None = None
    inter_token_latency_ms: float | None = None
    request_latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            if value <= 0:
                raise ScenarioError(f"[objectives] {name} must be above 0, got {value}")

    @property
    def given(self) -> dict[str, float]:
        """Those that are given, by name."""
        return {option.name: value for option in fields(self) if (value := getattr(self, option.name)) is not None}

    def __str__(self) -> str:
        parts = (f"{name.removesuffix('_ms')} <= {value:g} ms" for name, value in self.given.items())
        return ", ".join(parts) or "none stated"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the run: `rate` or `users`, each a number, or a pair to go from the one to the other evenly.

    Attributes:
        seconds: How long it takes.
        rate: Open loop: arrivals a second, at random times (Poisson), however many are waiting already.
        users: Closed loop: callers, each of whom asks again when it has its answer.
        name: For the report.
        warmup: Whether its requests stay out of the figures.

    Raises:
        ScenarioError: A value is out of its range, or both or neither of `rate` and `users` are given.
    """

    seconds: float
    rate: tuple[float, float] | None = None
    users: tuple[int, int] | None = None
    name: str = ""
    warmup: bool = False

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ScenarioError(f"[[phase]] seconds must be above 0, got {self.seconds}")
        if (self.rate is None) == (self.users is None):
            raise ScenarioError("[[phase]] takes either rate (open loop) or users (closed loop), got both or neither")
        if min(self.level) < 0:
            raise ScenarioError(f"[[phase]] rate and users must be 0 or more, got {self.level}")

    @property
    def level(self) -> tuple[float, float]:
        """`rate` or `users`, at the beginning and at the end."""
        level = self.users if self.rate is None else self.rate
        assert level is not None
        return level

    def level_at(self, seconds: float) -> float:
        """Return `rate` or `users` so many seconds after the phase's beginning."""
        start, end = self.level
        return start + (end - start) * min(1.0, max(0.0, seconds / self.seconds))


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """The question of `video-llava-load saturation`: which arrival rate still meets an objective?

    Attributes:
        metric: Which figure, as the report calls it.
        percentile: Which of it.
        below_ms: What it must stay below.
        rates: The first rate tried, and the highest, in arrivals a second.
        warmup_seconds: How long callers come at a rate before its trial, so that the trial finds the server as busy as
            it keeps it.
        trial_seconds: How long a rate is tried at least. In 30 s of Poisson arrivals at 16 a second there come 5 % more
            or fewer than that, as a rule; and close to the edge a queue grows slowly.
        trial_requests: How many arrivals a trial has at least: the 99th percentile of fewer than 100 is the largest.
        max_trial_seconds: And how long at most, for all that.
        precision: The search ends where the rates met and missed are this far apart, as a share of the latter.
        max_error_share: A rate at which more requests fail is missed whatever the figure.

    Raises:
        ScenarioError: A value is out of its range.
    """

    metric: str = "time_to_first_token"
    percentile: int = 99
    below_ms: float = 1000.0
    rates: tuple[float, float] = (0.5, 64.0)
    warmup_seconds: float = 5.0
    trial_seconds: float = 30.0
    trial_requests: int = 100
    max_trial_seconds: float = 120.0
    precision: float = 0.1
    max_error_share: float = 0.0

    def __post_init__(self) -> None:
        metrics = ("time_to_first_token", "inter_token_latency", "request_latency")
        if self.metric not in metrics:
            raise ScenarioError(f"[saturation] metric must be one of {', '.join(metrics)}, got {self.metric!r}")
        if self.percentile not in PERCENTILES:
            known = ", ".join(map(str, PERCENTILES))
            raise ScenarioError(f"[saturation] percentile must be one of {known}, got {self.percentile}")
        if not 0 < self.rates[0] <= self.rates[1]:
            raise ScenarioError(f"[saturation] rates must be above 0 and in order, got {list(self.rates)}")
        if not 0 < self.trial_seconds <= self.max_trial_seconds:
            seconds = f"{self.trial_seconds} and {self.max_trial_seconds}"
            raise ScenarioError(f"[saturation] trial_seconds and max_trial_seconds must be in order, got {seconds}")
        if self.warmup_seconds < 0:
            raise ScenarioError(f"[saturation] warmup_seconds must be 0 or more, got {self.warmup_seconds}")
        if not 0 < self.precision < 1 or not 0 <= self.max_error_share < 1 or self.below_ms <= 0:
            raise ScenarioError(
                "[saturation] precision (above 0), max_error_share (both below 1) and below_ms (above 0) are "
                f"{self.precision}, {self.max_error_share} and {self.below_ms}"
            )

    def seconds_at(self, rate: float) -> float:
        """Return how long a trial of this rate takes."""
        return min(self.max_trial_seconds, max(self.trial_seconds, self.trial_requests / rate))

    def __str__(self) -> str:
        return f"{self.metric} p{self.percentile} < {self.below_ms:g} ms"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One run; see the files in `scenarios/`.

    Attributes:
        name: The file's.
        seed: The same one asks the same questions in the same order; cold pixels, though, no run sees twice.
        drain_seconds: How long what is under way at the end may take; then it is cancelled and counts as unfinished.

    Raises:
        ScenarioError: Phases of both kinds, or none.
    """

    name: str
    mix: Mix
    phases: tuple[Phase, ...]
    requests: Requests = field(default_factory=Requests)
    objectives: Objectives = field(default_factory=Objectives)
    saturation: Saturation = field(default_factory=Saturation)
    seed: int = 1
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not self.phases:
            raise ScenarioError("a scenario needs at least one [[phase]]")
        if len({phase.rate is None for phase in self.phases}) > 1:
            raise ScenarioError("a scenario is open loop (rate) or closed loop (users), its phases are of both kinds")
        if all(phase.warmup for phase in self.phases):
            raise ScenarioError("every [[phase]] is a warmup: nothing would be measured")
        if self.drain_seconds < 0:
            raise ScenarioError(f"drain_seconds must be 0 or more, got {self.drain_seconds}")

    @property
    def is_open(self) -> bool:
        """Whether callers come whatever the server does (open loop), or wait for their answers (closed loop)."""
        return self.phases[0].rate is not None

    @property
    def seconds(self) -> float:
        """How long callers come."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def phase_names(self) -> tuple[str, ...]:
        """A name for each phase."""
        return tuple(phase.name or f"phase {number}" for number, phase in enumerate(self.phases, start=1))

    def phase_at(self, seconds: float) -> tuple[int, float]:
        """Return which phase it is so long after the beginning, and the seconds into it; after the end, the last."""
        for number, phase in enumerate(self.phases):
            if seconds < phase.seconds or number == len(self.phases) - 1:
                return number, seconds
            seconds -= phase.seconds
        raise AssertionError("there is at least one phase")

    def level_at(self, seconds: float) -> float:
        """Return the rate, or the number of users, so many seconds after the beginning."""
        number, within = self.phase_at(seconds)
        return self.phases[number].level_at(within)


def _check_range(table: str, name: str, pair: tuple[float, float], *, least: float) -> None:
    if not least <= pair[0] <= pair[1]:
        raise ScenarioError(f"[{table}] {name} must be {least} or more and in order, got {list(pair)}")
