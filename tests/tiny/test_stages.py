from dataclasses import replace

import pytest
import torch
from torch import nn

from tiny.stages import Stage, run_stage


def make_stage(num_steps: int) -> Stage:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))

    def loss(now, _):
        return {"loss": (module(torch.randn(8, 4, generator=now.torch)) - now.python.random()).square().mean()}

    return Stage("small", module, tuple(module.named_parameters()), loss, num_steps)


class Interrupted(Exception):
    pass


def test_an_interrupted_stage_goes_on_as_if_it_had_not_been(tmp_path):
    whole, broken, resumed = make_stage(20), make_stage(20), make_stage(20)
    (tmp_path / "whole").mkdir()
    run_stage(whole, tmp_path / "whole", seed=1)

    def fail_late(now, step):
        if step == 12:
            raise Interrupted("at step 12")
        return broken.loss(now, step)

    with pytest.raises(Interrupted, match="step 12"):
        run_stage(replace(broken, loss=fail_late), tmp_path, seed=1, save_every=5)
    run_stage(resumed, tmp_path, seed=1)

    for expected, actual in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(expected, actual)


def test_another_seed_trains_something_else(tmp_path):
    stages = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        stages.append(make_stage(5))
        run_stage(stages[-1], tmp_path / str(seed), seed=seed)
    assert not torch.equal(stages[0].module[1].weight, stages[1].module[1].weight)
