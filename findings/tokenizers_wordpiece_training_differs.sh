#!/usr/bin/env bash
# Training a WordPiece tokenizer twice on the same text gives two different vocabularies.
#
# Library: tokenizers 0.23.3 (the Rust library of Hugging Face).
# Guess: training draws nothing at random, so the same text and the same settings give the same vocabulary, as they
#   do for BPE in the same library.
# Behaviour: BpeTrainer gives one vocabulary in every process. WordPieceTrainer gives another one in each process: the ids
#   of most pieces differ, and sometimes the pieces too. There is no seed to set. A model trained with one of
#   these files reads wrong ids from another one of the same name and size.
# Here: a tokenizer's file belongs to the model that was trained with it. The course trains BPE.
# Seen on 2026-11-28: 6 runs on 3,000 words gave 6 different WordPiece vocabularies of 300 pieces (2 different sets of
#   pieces), and one BPE vocabulary.
set -euo pipefail
packages=(tokenizers==0.23.3)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/train.py" <<'PYTHON'
"""Train on 3,000 words that a fixed seed draws; print the vocabulary."""
import json, random, sys
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

random.seed(1)
text = " ".join("".join(random.choice("abcdefgh") for _ in range(random.randint(2, 7))) for _ in range(3000))
kinds = {
    "bpe": (models.BPE(), trainers.BpeTrainer(vocab_size=300, show_progress=False)),
    "wordpiece": (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(vocab_size=300, show_progress=False)),
}
model, trainer = kinds[sys.argv[1]]
tokenizer = Tokenizer(model)
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.train_from_iterator([text], trainer)
print(json.dumps(sorted(tokenizer.get_vocab().items())))
PYTHON
cat >"$folder/check.py" <<'PYTHON'
import json, subprocess, sys

def runs(kind):
    command = [sys.executable, sys.argv[1], kind]
    return [json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(6)]

for kind in ("bpe", "wordpiece"):
    found = runs(kind)
    vocabularies = len({json.dumps(run) for run in found})
    pieces = len({json.dumps(sorted(piece for piece, _ in run)) for run in found})
    sizes = {len(run) for run in found}
    print(f"{kind}: 6 runs, {vocabularies} different vocabularies, {pieces} different sets of pieces, sizes {sizes}")
    assert sizes == {300}
    assert (vocabularies == 1) == (kind == "bpe"), "the behaviour has changed"
PYTHON
if "$folder/env/bin/python" "$folder/check.py" "$folder/train.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
