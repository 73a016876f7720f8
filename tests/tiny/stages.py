"""The steps of one stage of the training, with two optimisers."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import typer
from torch import nn

# Learning rates of Muon, for matrices, and of AdamW, for all other weights.
_RATES = (5e-3, 2e-3)
_WARMUP_STEPS = 30
_MAX_GRADIENT_NORM = 1.0
_STEPS_PER_LINE = 25


@dataclass(frozen=True)
class Rngs:
    """The random generators of one step; they depend on the stage's name, the seed and the step alone."""

    python: random.Random
    torch: torch.Generator


def make_rngs(*key: object) -> Rngs:
    """Generators that depend on `key` alone."""
    python = random.Random("/".join(map(str, key)))
    return Rngs(python, torch.Generator().manual_seed(python.getrandbits(60)))


def run_stage(
    name: str,
    module: nn.Module,
    losses: Callable[[Rngs, int], dict[str, torch.Tensor]],
    num_steps: int,
    *,
    seed: int,
    cooldown: float = 0.35,
) -> None:
    """Train all weights of `module` that require gradients, and print the mean losses now and then.

    Args:
        losses: Takes the step's generators and its number; gives losses by name.
        cooldown: The fraction of the steps, at the end, in which the learning rates fall to a hundredth.
    """
    weights = {key: weight for key, weight in module.named_parameters() if weight.requires_grad}
    optimisers = _make_optimisers(weights)
    started, recent = time.perf_counter(), []
    for step in range(num_steps):
        warm = min(1.0, (step + 1) / _WARMUP_STEPS)
        cool = min(1.0, (num_steps - step) / max(1.0, cooldown * num_steps))
        for optimiser, rate in zip(optimisers, _RATES, strict=True):
            optimiser.param_groups[0]["lr"] = rate * warm * max(cool, 0.01)
        by_name = losses(make_rngs(name, seed, step), step)
        torch.stack(list(by_name.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), _MAX_GRADIENT_NORM)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        recent.append({key: loss.item() for key, loss in by_name.items()})
        if step + 1 == num_steps or (step + 1) % _STEPS_PER_LINE == 0:
            seconds = time.perf_counter() - started
            typer.echo(f"{name} {step + 1}/{num_steps}  {seconds:.0f} s  {_means(recent)}")
            recent.clear()


def _make_optimisers(weights: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    matrices, others = [], []
    for name, weight in weights.items():
        is_matrix = weight.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "heads."))
        (matrices if is_matrix else others).append(weight)
    return [
        torch.optim.Muon(matrices, momentum=0.95, weight_decay=0.01, ns_steps=5),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _means(recent: list[dict[str, float]]) -> str:
    names = dict.fromkeys(name for losses in recent for name in losses)
    values = {name: [losses[name] for losses in recent if name in losses] for name in names}
    return "  ".join(f"{name} {sum(some) / len(some):.3f}" for name, some in values.items())
