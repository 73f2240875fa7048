from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.published import WrongStateDict, load_tgdp, tgdp_state_dict
from models.tgdp import Tgdp


def test_prefix_makes_no_difference(golden_weights: dict[str, Tensor], golden_network: Tgdp) -> None:
    prefixed = {f"module.{name}": tensor for name, tensor in golden_weights.items()}
    assert tgdp_state_dict(prefixed).keys() == golden_network.state_dict().keys()


def test_missing_unexpected_and_misshaped_tensors_are_named(
    golden_weights: dict[str, Tensor], golden_network: Tgdp
) -> None:
    config = golden_network.config
    missing = {name: t for name, t in golden_weights.items() if name != "cls_token_a"}
    with pytest.raises(WrongStateDict, match=r"cls_tokens\.audio"):
        load_tgdp(missing, config)
    with pytest.raises(WrongStateDict, match="surprise"):
        load_tgdp({**golden_weights, "surprise": torch.zeros(1)}, config)
    with pytest.raises(WrongStateDict, match=r"blocks_u\.1\.attn\.qkv\.bias"):
        load_tgdp({**golden_weights, "blocks_u.1.attn.qkv.bias": torch.zeros(144)}, config)
    with pytest.raises(WrongStateDict, match=r"size mismatch for norms\.audio\.weight"):
        load_tgdp({**golden_weights, "norm_a.weight": torch.zeros(47)}, config)
