"""Dequantise a GGUF file to float32 safetensors: `python -m course_lib.models.convert FILE.gguf DIRECTORY`.

A process of its own, because it holds the weights twice (1.1 GB for SmolLM2) and gives that memory back by ending.
"""

import sys
from pathlib import Path


def convert(gguf: Path, directory: Path) -> None:
    """Write model.safetensors, config.json and the tokenizer's files of `gguf` to `directory`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain floats now; left in place, these two would make transformers refuse to save them.
    del model.config.quantization_config
    model.hf_quantizer = None
    eps = model.config.rms_norm_eps  # GGUF keeps it as float32: 9.999999747378752e-06 for 1e-5
    model.config.rms_norm_eps = float(f"{eps:.6g}")
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
