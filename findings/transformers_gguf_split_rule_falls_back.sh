#!/usr/bin/env bash
# A GGUF file names the rule that cuts text into words; a name that transformers does not know becomes GPT-2's rule.
#
# Library: transformers 5.23.0, tokenizers 0.23.3, gguf 0.19.0, torch 2.13.0 (transformers reads a GGUF file with it).
# Guess: `AutoTokenizer.from_pretrained(..., gguf_file=...)` gives the tokenizer that the file describes, or refuses the
#   file. For "llama-bpe" and "qwen2" in `tokenizer.ggml.pre` it does set the rule of that name.
# Behaviour: "smollm" (SmolLM and SmolLM2: every digit alone, then GPT-2's rule) gives the same pre-tokenizer as "gpt-2",
#   without an error or a warning. Two line breaks before a number become two tokens, where the model has learnt one.
# Here: the packaged model is such a file. The course sets the rule itself.
# Seen on 2026-11-28: "\n\n45" becomes Ċ Ċ 4 5 under both names, and ĊĊ 4 5 by SmolLM2's own rule.
set -euo pipefail
packages=(transformers==5.23.0 tokenizers==0.23.3 gguf==0.19.0 torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
"""Write GGUF files that differ only in the name of the rule, and read their tokenizers with transformers."""
import sys
from importlib.metadata import version
from pathlib import Path

from gguf import GGUFWriter
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
print(*(f"{name} {version(name)}" for name in ("transformers", "tokenizers", "gguf")))


def read(rule):
    writer = GGUFWriter(str(folder / f"{rule}.gguf"), "llama")
    writer.add_context_length(16)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AutoTokenizer.from_pretrained(folder, gguf_file=f"{rule}.gguf")


tokens = {}
for rule in ("gpt-2", "llama-bpe", "qwen2", "smollm"):
    tokenizer = read(rule)
    tokens[rule] = tokenizer.tokenize("\n\n45")
    print(f"{rule:10}", tokens[rule])

# As in SmolLM2's own tokenizer.json: Digits, then ByteLevel.
parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
own = tokenizer.tokenize("\n\n45")
print(f"{'its own':10}", own)
assert own == tokens["llama-bpe"] == tokens["qwen2"] == ["ĊĊ", "4", "5"]
assert tokens["smollm"] == tokens["gpt-2"] == ["Ċ", "Ċ", "4", "5"], "the behaviour has changed"
PYTHON
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" "$folder/check.py" "$folder"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
