"""Dequantise a GGUF file to float32 safetensors: `python -m course_lib.models.convert FILE.gguf DIRECTORY [RULE]`.

RULE is the name of the tokenizer's split rule, for a file that names none (see `course_lib.models.gguf_tokenizer`).
This is a process of its own, because it holds the weights twice (1.1 GB for SmolLM2) and gives that memory back by
ending.
"""

import sys
from pathlib import Path

from course_lib.errors import CourseError

REFUSED = 3  # the exit status for a file that cannot be converted as it is


def convert(gguf: Path, directory: Path, split_rule: str | None = None) -> None:
    """Write the model and the tokenizer of a GGUF file in the Hugging Face layout.

    Args:
        gguf: the file.
        directory: receives model.safetensors, config.json and the tokenizer's files.
        split_rule: the name of the tokenizer's split rule, for a file that names none.

    Raises:
        CourseError: the tokenizer's rules are unknown here.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from course_lib.models.gguf_tokenizer import load_gguf_tokenizer

    # The tokenizer comes first: a file that is refused costs a second and not the whole conversion.
    load_gguf_tokenizer(gguf, split_rule).save_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain floats now; left in place, these two would make transformers refuse to save them.
    del model.config.quantization_config
    model.hf_quantizer = None
    eps = model.config.rms_norm_eps  # GGUF keeps it as float32: 9.999999747378752e-06 for 1e-5
    model.config.rms_norm_eps = float(f"{eps:.6g}")
    model.save_pretrained(directory)


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4])
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(REFUSED)
