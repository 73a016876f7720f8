"""The steps of one stage of the training, with two optimisers."""

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import typer
from torch import nn

# Learning rates of Muon, for matrices, and of AdamW, for all other weights.
_RATES = (5e-3, 2e-3)
_WARMUP_STEPS = 30
_MAX_GRADIENT_NORM = 1.0
_STEPS_PER_LINE = 25

_Losses = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Rngs:
    """The random generators of one step; they depend on the stage's name, the seed and the step alone."""

    python: random.Random
    torch: torch.Generator


def make_rngs(*key: object) -> Rngs:
    """Generators that depend on `key` alone."""
    python = random.Random("/".join(map(str, key)))
    return Rngs(python, torch.Generator().manual_seed(python.getrandbits(60)))


@dataclass(frozen=True)
class Stage:
    """What is trained, on what, and for how many steps.

    Attributes:
        name: For the lines of progress; the random numbers depend on it.
        module: Its weights that require gradients are trained.
        loss: Takes the step's generators and its number; gives losses by name.
        cooldown: The fraction of the steps, at the end, in which the learning rates fall to a hundredth.
    """

    name: str
    module: nn.Module
    loss: Callable[[Rngs, int], _Losses]
    num_steps: int
    cooldown: float = 0.35


def run_stage(stage: Stage, *, seed: int) -> None:
    """Train, and print the mean losses now and then."""
    optimisers = _make_optimisers(stage.module)
    started, recent = time.perf_counter(), []
    for step in range(stage.num_steps):
        _set_rates(stage, optimisers, step)
        recent.append(_take_step(stage, optimisers, seed, step))
        if step + 1 == stage.num_steps or (step + 1) % _STEPS_PER_LINE == 0:
            seconds = time.perf_counter() - started
            typer.echo(f"{stage.name} {step + 1}/{stage.num_steps}  {seconds:.0f} s  {_means(recent)}")
            recent.clear()


def _make_optimisers(module: nn.Module) -> list[torch.optim.Optimizer]:
    trained = [(name, weight) for name, weight in module.named_parameters() if weight.requires_grad]
    matrices = [weight for name, weight in trained if _is_matrix(name, weight)]
    others = [weight for name, weight in trained if not _is_matrix(name, weight)]
    return [
        torch.optim.Muon(matrices, momentum=0.95, weight_decay=0.01, ns_steps=5),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _is_matrix(name: str, weight: nn.Parameter) -> bool:
    return weight.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "heads."))


def _set_rates(stage: Stage, optimisers: Iterable[torch.optim.Optimizer], step: int) -> None:
    warmup = min(1.0, (step + 1) / _WARMUP_STEPS)
    cooldown = min(1.0, (stage.num_steps - step) / max(1.0, stage.cooldown * stage.num_steps))
    for optimiser, rate in zip(optimisers, _RATES, strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate * warmup * max(cooldown, 0.01)


def _take_step(stage: Stage, optimisers: Iterable[torch.optim.Optimizer], seed: int, step: int) -> dict[str, float]:
    losses = stage.loss(make_rngs(stage.name, seed, step), step)
    torch.stack(list(losses.values())).sum().backward()
    weights = [weight for weight in stage.module.parameters() if weight.requires_grad]
    torch.nn.utils.clip_grad_norm_(weights, _MAX_GRADIENT_NORM)
    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad()
    return {name: loss.item() for name, loss in losses.items()}


def _means(recent: list[dict[str, float]]) -> str:
    names = dict.fromkeys(name for losses in recent for name in losses)
    values = {name: [losses[name] for losses in recent if name in losses] for name in names}
    return "  ".join(f"{name} {sum(some) / len(some):.3f}" for name, some in values.items())
