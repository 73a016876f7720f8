"""What a run does: phases, mix of requests, objectives; read from TOML. ../README.md explains every option."""

from __future__ import annotations

import math
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic import model_validator as model_check
from video_llava_client import OptionError

KINDS = ("video_cold", "video_warm", "image", "text", "chat")
"""Frames that no cache has seen, or has; an image; text only; a conversation about a cold video."""

PERCENTILES = (50, 90, 99)


class ScenarioError(OptionError):
    """A scenario cannot be found, read or used; the text names the value."""


def _pair(value: Any) -> Any:
    """Read a number as both ends of a range."""
    return _tuple(value) if isinstance(value, list | tuple) else (value, value)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _in_order(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("the first number must not be above the second")
    return pair


NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Level = Annotated[tuple[NotNegative, NotNegative], BeforeValidator(_pair)]
Users = Annotated[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]], BeforeValidator(_pair)]
Counts = Annotated[tuple[AtLeastOne, AtLeastOne], AfterValidator(_in_order), BeforeValidator(_pair)]
Seconds = Annotated[tuple[NotNegative, NotNegative], AfterValidator(_in_order), BeforeValidator(_pair)]


class _Table(BaseModel):
    """A table of the TOML file. Unknown names and values of a wrong type or range raise pydantic's ValidationError."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Mix(_Table):
    """How often each of `KINDS` is asked, as weights of any sum."""

    video_cold: NotNegative = 0.0
    video_warm: NotNegative = 0.0
    image: NotNegative = 0.0
    text: NotNegative = 0.0
    chat: NotNegative = 0.0

    @model_check(mode="after")
    def _check(self) -> Self:
        if not any(self.weights):
            raise ValueError(f"no kind of request has a weight: give one of {', '.join(KINDS)}")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights in the order of `KINDS`."""
        return tuple(getattr(self, kind) for kind in KINDS)


class Requests(_Table):
    """What a request is like; each request draws its values from the pairs, ends included."""

    question_words: Counts = (6, 24)
    output_tokens: Counts = (16, 64)
    ignore_eos: bool = True
    warm_videos: AtLeastOne = 4
    turns: Counts = (2, 4)
    think_seconds: Seconds = (0.0, 0.0)
    cancel_share: Share = 0.0
    cancel_after_tokens: Counts = (1, 8)
    lora_names: Annotated[tuple[str, ...], BeforeValidator(_tuple)] = ()


class Objectives(_Table):
    """The service level for goodput: an answer is good if it meets each one given. In milliseconds, as in AIPerf."""

    time_to_first_token_ms: Positive | None = None
    inter_token_latency_ms: Positive | None = None
    request_latency_ms: Positive | None = None

    @property
    def given(self) -> dict[str, float]:
        """Objectives by the metric's name, milliseconds."""
        return {name.removesuffix("_ms"): value for name, value in self if value is not None}


class Phase(_Table):
    """A part of the run with `rate` (open loop) or `users` (closed loop); a pair is a linear ramp."""

    seconds: Positive
    rate: Level | None = None
    users: Users | None = None
    name: str = ""
    warmup: bool = False

    @model_check(mode="after")
    def _check(self) -> Self:
        if (self.rate is None) == (self.users is None):
            raise ValueError("give either rate (open loop) or users (closed loop)")
        return self

    @property
    def level(self) -> tuple[float, float]:
        """`rate` or `users`, at the beginning and at the end."""
        return self.rate or self.users or (0.0, 0.0)


class Saturation(_Table):
    """What `video-llava-load saturation` searches: the highest arrival rate that meets an objective."""

    metric: Literal["time_to_first_token", "inter_token_latency", "request_latency"] = "time_to_first_token"
    percentile: Literal[50, 90, 99] = 99
    below_ms: Positive = 1000.0
    rates: Annotated[tuple[Positive, Positive], AfterValidator(_in_order), BeforeValidator(_pair)] = (0.5, 64.0)
    warmup_seconds: NotNegative = 5.0
    trial_seconds: Positive = 30.0
    trial_requests: AtLeastOne = 100
    max_trial_seconds: Positive = 120.0
    precision: Annotated[Share, Field(gt=0)] = 0.1
    max_error_share: Share = 0.0

    @model_check(mode="after")
    def _check(self) -> Self:
        if self.trial_seconds > self.max_trial_seconds:
            raise ValueError("max_trial_seconds must be trial_seconds or more")
        return self

    def seconds_at(self, rate: float) -> float:
        """Return the duration of a trial at this rate."""
        return min(self.max_trial_seconds, max(self.trial_seconds, self.trial_requests / rate))

    def __str__(self) -> str:
        return f"{self.metric} p{self.percentile} < {self.below_ms:g} ms"


Phases = Annotated[tuple[Phase, ...], BeforeValidator(_tuple)]


class Scenario(_Table):
    """One run; `scenarios/` has examples. The name is the file's; `phases` is `[[phase]]` in the file."""

    name: str
    mix: Mix
    phases: Phases = Field(min_length=1, validation_alias=AliasChoices("phase", "phases"))
    requests: Requests = Requests()
    objectives: Objectives = Objectives()
    saturation: Saturation = Saturation()
    seed: int = 1
    drain_seconds: NotNegative = 60.0

    @model_check(mode="after")
    def _check(self) -> Self:
        if len({phase.rate is None for phase in self.phases}) > 1:
            raise ValueError("all phases must be open loop (rate) or all closed loop (users)")
        if all(phase.warmup for phase in self.phases):
            raise ValueError("every phase is a warmup: nothing would be measured")
        return self

    @property
    def is_open(self) -> bool:
        """Whether this is an open loop."""
        return self.phases[0].rate is not None

    @property
    def num_sources(self) -> int:
        """Of one arrival per second each, for the highest rate of an open loop."""
        return math.ceil(max(max(phase.level) for phase in self.phases))

    @property
    def seconds(self) -> float:
        """Duration of all phases."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def phase_names(self) -> tuple[str, ...]:
        """A name for each phase."""
        return tuple(phase.name or f"phase {number}" for number, phase in enumerate(self.phases, start=1))

    def phase_at(self, seconds: float) -> tuple[int, float]:
        """Return the index of the phase at this time of the run, and the seconds into it; after the end, the last."""
        for number, phase in enumerate(self.phases[:-1]):
            if seconds < phase.seconds:
                return number, seconds
            seconds -= phase.seconds
        return len(self.phases) - 1, seconds

    def level_at(self, seconds: float) -> float:
        """Return the rate, or the number of users, at this time of the run."""
        number, within = self.phase_at(seconds)
        phase = self.phases[number]
        start, end = phase.level
        return start + (end - start) * min(1.0, max(0.0, within / phase.seconds))


def shipped_scenarios() -> dict[str, str]:
    """Return the TOML text of each scenario of this package, by name."""
    folder = resources.files("video_llava_load").joinpath("scenarios")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return {file.name.removesuffix(".toml"): file.read_text(encoding="utf-8") for file in files}


def read_scenario(name: str) -> Scenario:
    """Return the shipped scenario of this name, or the one in this file.

    Raises:
        ScenarioError: There is none, or it cannot be used.
    """
    shipped = shipped_scenarios()
    if name in shipped:
        return parse_scenario(shipped[name], name=name)
    try:
        return parse_scenario(Path(name).read_text(encoding="utf-8"), name=Path(name).stem)
    except (OSError, UnicodeDecodeError) as exc:
        message = f"{name!r} is neither one of {', '.join(shipped)} nor a file that can be read ({exc})"
        raise ScenarioError(message) from exc


def parse_scenario(text: str, *, name: str) -> Scenario:
    """Return the scenario in the text of a TOML file.

    Raises:
        ScenarioError: It is not TOML, has unknown names, or values that cannot be used.
    """
    try:
        return Scenario.model_validate(tomllib.loads(text) | {"name": name})
    except tomllib.TOMLDecodeError as exc:
        raise ScenarioError(f"{name}: not TOML ({exc})") from exc
    except ValidationError as exc:
        raise ScenarioError(f"{name}: {'; '.join(map(_explain, exc.errors()))}"[:500]) from exc


_TABLES = {"mix": Mix, "requests": Requests, "objectives": Objectives, "saturation": Saturation, "phase": Phase}


def _explain(error: Any) -> str:
    """Return one of pydantic's errors as a sentence: place, problem, value."""
    place, value = ".".join(map(str, error["loc"])) or "scenario", error["input"]
    if error["type"] == "extra_forbidden":
        table = _TABLES[error["loc"][0]] if len(error["loc"]) > 1 else Scenario
        return f"{place} is unknown; known here: {', '.join(table.model_fields)}"
    got = "" if isinstance(value, dict | BaseModel) else f", got {value!r}"
    return f"{place}: {error['msg'].removeprefix('Value error, ')}{got}"
