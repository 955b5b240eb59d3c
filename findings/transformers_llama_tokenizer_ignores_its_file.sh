#!/usr/bin/env bash
# A tokenizer_config.json that says LlamaTokenizer makes transformers 5 ignore how tokenizer.json splits text.
#
# Package: transformers 5.23.0, with tokenizers 0.23.3 (AutoTokenizer).
# Guess: AutoTokenizer gives the tokens that tokenizers gives with the same tokenizer.json, as in transformers 4.
# Behaviour: for a class with a constructor of its own only vocabulary, merges and post-processor are taken from the
#   file; normaliser, pre-tokenizer and decoder are the class's. A tokenizer that lower-cases or that splits numbers
#   into digits does neither after loading, without a word. One that is edited and saved comes back unedited. With the
#   class name PreTrainedTokenizerFast the file is obeyed.
# Here: a model trained with one splitting is asked with the other.
set -euo pipefail
packages=(transformers==5.23.0 tokenizers==0.23.3)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

print(*(f"{name} {version(name)}" for name in ("transformers", "tokenizers")))
special = ["<unk>", "<s>", "</s>"]
backend = Tokenizer(models.BPE(unk_token="<unk>"))
words = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
backend.pre_tokenizer = words
backend.train_from_iterator(
    ["the year 2024 and the year 2025"] * 20,
    trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False),
)
backend.normalizer = normalizers.Lowercase()
backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
text = "The year 2024"
expected = backend.encode(text, add_special_tokens=False).tokens


def loaded(name):
    """The tokens that AutoTokenizer gives, when the configuration names this class."""
    folder = Path(tempfile.mkdtemp(dir="."))
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": name, "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return AutoTokenizer.from_pretrained(folder)


print("tokenizers, the file:   ", expected)
found = {}
for name in ("PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast"):
    found[name] = loaded(name).tokenize(text)
    print(f"{name + ':':24}", found[name])

tokenizer = loaded("LlamaTokenizer")
tokenizer.backend_tokenizer.pre_tokenizer = backend.pre_tokenizer
tokenizer.backend_tokenizer.normalizer = backend.normalizer
edited, folder = tokenizer.tokenize(text), tempfile.mkdtemp(dir=".")
tokenizer.save_pretrained(folder)
again = AutoTokenizer.from_pretrained(folder).tokenize(text)
print("edited, saved, loaded:  ", edited, "->", again)
assert found["PreTrainedTokenizerFast"] == expected
assert found["LlamaTokenizer"] != expected, "the behaviour has changed"
assert found["LlamaTokenizerFast"] != expected, "the behaviour has changed"
assert edited == expected != again, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
