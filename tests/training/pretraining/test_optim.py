from __future__ import annotations

import dataclasses

import pytest

from models.network.geometry import MODALITIES
from models.network.tgdp import Tgdp
from tests.support.two_processes import CONFIG, TINY
from training.pretraining.optim import learning_rate_at, make_optimiser, set_learning_rate


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = dataclasses.replace(CONFIG, num_steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate_at(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


def test_norms_biases_and_single_tokens_do_not_decay() -> None:
    network = Tgdp(TINY)
    decayed, kept = make_optimiser(network, CONFIG).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (CONFIG.weight_decay, 0.0)
    names = {id(p): name for name, p in network.named_parameters()}
    assert all("norm" not in names[id(p)] and "bias" not in names[id(p)] for p in decayed["params"])
    assert {"mask_token", *(f"cls_tokens.{m}" for m in MODALITIES)} <= {names[id(p)] for p in kept["params"]}


def test_every_group_gets_the_rate() -> None:
    optimiser = make_optimiser(Tgdp(TINY), CONFIG)
    set_learning_rate(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [0.25, 0.25]
