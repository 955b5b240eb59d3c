"""Adapters: a few trained parameters on a frozen base.

`lora` and `butterfly` are the methods, `merge` folds them into the base, `files` saves and loads them, and `layers`
holds what they share.
"""

from course_lib.adapters.butterfly import (
    ButterflyLinear,
    ButterflyRotation,
    butterfly_layers,
    butterfly_parameter_count,
    inject_butterfly,
)
from course_lib.adapters.files import load_adapter, save_adapter
from course_lib.adapters.guide import (
    LinearWithLoRA,
    LoRALayer,
    apply_lora_to_model,
    get_lora_parameters,
    load_lora_weights,
    merge_all_lora_weights,
    save_lora_weights,
)
from course_lib.adapters.layers import adapted_layers, disable_adapters
from course_lib.adapters.lora import (
    LoRALinear,
    adapter_names,
    inject_lora,
    lora_layers,
    lora_parameter_count,
    lora_parameters,
    lora_scaling,
    set_adapter,
)
from course_lib.adapters.merge import MergeReport, combine_adapters, merge, save_merged, unload, unmerge

__all__ = [
    "ButterflyLinear",
    "ButterflyRotation",
    "LinearWithLoRA",
    "LoRALayer",
    "LoRALinear",
    "MergeReport",
    "adapted_layers",
    "apply_lora_to_model",
    "get_lora_parameters",
    "load_lora_weights",
    "merge_all_lora_weights",
    "save_lora_weights",
    "adapter_names",
    "butterfly_layers",
    "butterfly_parameter_count",
    "combine_adapters",
    "disable_adapters",
    "inject_butterfly",
    "inject_lora",
    "load_adapter",
    "lora_layers",
    "lora_parameter_count",
    "lora_parameters",
    "lora_scaling",
    "merge",
    "save_adapter",
    "save_merged",
    "set_adapter",
    "unload",
    "unmerge",
]
