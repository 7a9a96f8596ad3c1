"""Adapters: a few new parameters, trained while a model's own weights stay frozen."""

from ovi_lab.adapters.lora import LoraSettings, LoraValues, add_lora, load_adapter, merge_lora, save_adapter
from ovi_lab.adapters.merging import MergedWeights

__all__ = [
    "LoraSettings",
    "LoraValues",
    "MergedWeights",
    "add_lora",
    "load_adapter",
    "merge_lora",
    "save_adapter",
]
