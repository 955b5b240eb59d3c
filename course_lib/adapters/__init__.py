"""Adapters: a few trained parameters on a frozen base (`lora`: the method, `files`: saving and loading it)."""

from course_lib.adapters.files import load_adapter, save_adapter
from course_lib.adapters.lora import LoRALinear, inject_lora, lora_layers, lora_parameter_count, lora_parameters

__all__ = [
    "LoRALinear",
    "inject_lora",
    "load_adapter",
    "lora_layers",
    "lora_parameter_count",
    "lora_parameters",
    "save_adapter",
]
