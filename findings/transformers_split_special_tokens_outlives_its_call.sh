#!/usr/bin/env bash
# An option of one tokenizer call stays set in the tokenizer below it.
#
# Package: transformers 5.23.0, tokenizers 0.23.3.
# Guess: tokenizer(text, split_special_tokens=True) reads special tokens as text in this call only.
# Behaviour: the call sets the option in the backend tokenizer and leaves it there. Whatever uses that one next, by
#   tokenizer.backend_tokenizer.encode or encode_batch, reads the end token as four pieces, until transformers' own
#   tokenizer is called again. That call sets the option back.
# Here: a program that encodes large files with the backend gets texts without a single end token. The course sets
#   the option itself before each text, and keeps it in the fingerprint of what was encoded.
set -euo pipefail
packages=(transformers==5.23.0 tokenizers==0.23.3)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

print(*(f"{name} {version(name)}" for name in ("transformers", "tokenizers")))
words = Tokenizer(models.WordLevel({"?": 0, "a": 1, "<": 2, "end": 3, ">": 4}, unk_token="?"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?", eos_token="<end>")
backend = tokenizer.backend_tokenizer
text = "a <end>"

before = backend.encode(text).tokens
tokenizer(text, split_special_tokens=True)
after = backend.encode(text).tokens
tokenizer(text)
reset = backend.encode(text).tokens
print("the backend before the call:", before)
print("after a call with split_special_tokens=True:", after)
print("after a call without it:", reset)
assert before == reset == ["a", "<end>"]
assert after == ["a", "<", "end", ">"], "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
