"""One stage of a training: steps, two optimisers, and a file to go on from after an interruption."""

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

_MOMENTUM, _CLIP = 0.95, 1.0
_WARMUP_STEPS = 30


@dataclass(frozen=True)
class Chance:
    """The random numbers of one step: the same for the same seed, stage and step, after an interruption too."""

    python: random.Random
    torch: torch.Generator


@dataclass(frozen=True)
class Stage:
    """What is trained, for how long, and on what.

    Attributes:
        name: The file's name, and that of the progress lines.
        module: Holds all weights that are saved.
        trained: Those of its parameters that are trained, with their names.
        loss: Takes the step's chance and its number; gives losses by name.
        matrix_rate: Learning rate of Muon, for matrices.
        other_rate: Learning rate of AdamW, for all the rest.
        cooling: The last part of the stage, in which both fall to a hundredth.
    """

    name: str
    module: nn.Module
    trained: tuple[tuple[str, nn.Parameter], ...]
    loss: Callable[[Chance, int], dict[str, torch.Tensor]]
    num_steps: int
    matrix_rate: float = 5e-3
    other_rate: float = 2e-3
    cooling: float = 0.35

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices, AdamW for embeddings, heads and vectors."""
        matrices = [weight for name, weight in self.trained if _is_matrix(name, weight)]
        others = [weight for name, weight in self.trained if not _is_matrix(name, weight)]
        return [
            torch.optim.Muon(matrices, lr=self.matrix_rate, momentum=_MOMENTUM, weight_decay=0.01, ns_steps=5),
            torch.optim.AdamW(others, lr=self.other_rate, betas=(0.9, 0.98), weight_decay=0.01),
        ]


def run_stage(stage: Stage, folder: Path, *, seed: int, save_every: int = 100) -> None:
    """Train, or go on with the training, or only load its result if it is complete."""
    path = folder / f"{stage.name}.pt"
    optimisers = stage.optimisers()
    first = _resume(stage, path, optimisers)
    log = _Log(stage, first)
    for step in range(first, stage.num_steps):
        _set_rates(stage, optimisers, step)
        log.add(step, _take_step(stage, optimisers, chance(stage.name, seed, step), step))
        if (step + 1) % save_every == 0 or step + 1 == stage.num_steps:
            _save(stage, path, optimisers, step + 1)


def chance(*key: object) -> Chance:
    """Random numbers that depend on `key` alone."""
    python = random.Random("/".join(map(str, key)))
    return Chance(python, torch.Generator().manual_seed(python.getrandbits(60)))


def _take_step(
    stage: Stage, optimisers: Iterable[torch.optim.Optimizer], now: Chance, step: int
) -> dict[str, torch.Tensor]:
    losses = stage.loss(now, step)
    torch.stack(list(losses.values())).sum().backward()
    torch.nn.utils.clip_grad_norm_([weight for _, weight in stage.trained], _CLIP)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()
    return losses


def _is_matrix(name: str, weight: nn.Parameter) -> bool:
    return weight.ndim == 2 and not any(word in name for word in ("embed", "lm_head", "heads."))


def _set_rates(stage: Stage, optimisers: Iterable[torch.optim.Optimizer], step: int) -> None:
    warm = min(1.0, (step + 1) / _WARMUP_STEPS)
    cool = min(1.0, (stage.num_steps - step) / max(1.0, stage.cooling * stage.num_steps))
    for optimiser, rate in zip(optimisers, (stage.matrix_rate, stage.other_rate), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate * warm * max(cool, 0.01)


def _resume(stage: Stage, path: Path, optimisers: list[torch.optim.Optimizer]) -> int:
    if not path.is_file():
        return 0
    saved = torch.load(path)
    stage.module.load_state_dict(saved["module"])
    for optimiser, state in zip(optimisers, saved["optimisers"], strict=True):
        optimiser.load_state_dict(state)
    return saved["num_steps"]


def _save(stage: Stage, path: Path, optimisers: list[torch.optim.Optimizer], num_steps: int) -> None:
    state = {
        "module": stage.module.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "num_steps": num_steps,
    }
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


class _Log:
    """Prints the means of the losses every now and then."""

    def __init__(self, stage: Stage, first: int, *, every: int = 25) -> None:
        self._stage, self._first, self._every = stage, first, every
        self._started = time.perf_counter()
        self._sums: dict[str, list[float]] = {}

    def add(self, step: int, losses: dict[str, torch.Tensor]) -> None:
        for name, loss in losses.items():
            self._sums.setdefault(name, []).append(loss.item())
        if (step + 1) % self._every == 0 or step + 1 == self._stage.num_steps:
            means = "  ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in self._sums.items())
            seconds = time.perf_counter() - self._started
            print(f"{self._stage.name} {step + 1}/{self._stage.num_steps}  {seconds:.0f} s  {means}", flush=True)  # noqa: T201
            self._sums.clear()
