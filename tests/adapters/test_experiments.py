"""The experiments that fine-tune a released model on one GPU: what they compose, and how much they train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ovi_lab.adapters import LoraSettings, add_lora
from ovi_lab.common.paths import config_dir
from ovi_lab.optim.freezing import FreezeRule


def composed(experiment: str, *overrides: str) -> Any:
    GlobalHydra.instance().clear()
    given = [f"experiment={experiment}", "data.shards=x.tar", "init_from.all=x", "run_dir=unused", *overrides]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("train", overrides=given)


def on_meta(config: Any) -> Any:
    with torch.device("meta"):
        return instantiate(config.model)()


@pytest.mark.slow
def test_lora_of_the_released_model() -> None:
    config = composed("ovi_lora")
    model = on_meta(config)
    assert model.recomputation.choice == "full"
    settings = LoraSettings.of(OmegaConf.to_container(config.adapter, resolve=True))
    assert (settings.rank, settings.scaling, settings.base_dtype) == (64, 1.0, "bfloat16")
    assert add_lora(model, settings) == (188_743_680, 11_660_753_108 + 188_743_680)
    # The model's own weights at 2 bytes, the adapter's at 4.
    stored = sum(p.numel() * p.element_size() for p in model.parameters())
    assert stored == 2 * 11_660_753_108 + 4 * 188_743_680
    assert (config.optim.muon, config.optim.factory.lr) == (False, 1e-4)
    assert (config.trainer.devices, config.trainer.precision) == (1, "bf16-mixed")
    rank_8 = composed("ovi_lora", "adapter.rank=8", "adapter.targets=[all_linear]")
    assert (rank_8.adapter.alpha, list(rank_8.adapter.targets)) == (8, ["all_linear"])


@pytest.mark.slow
def test_a_part_of_the_released_model() -> None:
    config = composed("ovi_partial")
    assert config.adapter is None
    assert FreezeRule(**config.freeze).apply(on_meta(config)) == (1_133_383_680, 11_660_753_108)
    assert config.model.activation_checkpointing == "full"
    attention = composed("ovi_partial", "freeze=attention_only")
    model = on_meta(attention)
    # self-attention and cross-attention with fusion: the paper's "5.7B trainable"
    assert FreezeRule(**attention.freeze).apply(model)[0] == 5_665_443_840
    assert FreezeRule(frozen=[r"\.ffn\."]).apply(model)[0] == 6_374_885_588


def test_without_an_adapter() -> None:
    assert composed("ovi_11b_stage3").adapter is None
