#!/usr/bin/env bash
# The mask of the assistant's tokens marks the user's words too, when the assistant's first turn is one token at the start.
#
# Package: transformers 5.23.0 with tokenizers 0.23.3, apply_chat_template(return_assistant_tokens_mask=True).
# Guess: assistant_masks is 1 inside {% generation %} blocks and 0 elsewhere, wherever a block stands.
# Behaviour: a block whose last token has the index 0 counts as one without an end: everything after it is marked, the
#   user's turns included. The turns assistant "a", user "b", assistant "c" give [1, 1, 1] instead of [1, 0, 1]; with a
#   user's turn first the mask is right.
# Here: training on assistant turns would train on the user's. The course builds its own mask and compares it.
set -euo pipefail
packages=(transformers==5.23.0 tokenizers==0.23.3)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" jinja2 ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

print("transformers", version("transformers"), "tokenizers", version("tokenizers"))
words = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2, "c": 3}, unk_token="?"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
tokenizer.chat_template = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{{ ' ' }}{% else %}{{ m['content'] + ' ' }}{% endif %}{% endfor %}"
)


def mask(*turns):
    messages = [{"role": role, "content": text} for role, text in turns]
    options = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    return list(tokenizer.apply_chat_template(messages, **options)["assistant_masks"])


user_first = mask(("user", "b"), ("assistant", "a"), ("user", "b"))
assistant_first = mask(("assistant", "a"), ("user", "b"), ("assistant", "c"))
print("user, assistant, user:", user_first)
print("assistant, user, assistant:", assistant_first)
assert user_first == [0, 1, 0]
assert assistant_first == [1, 1, 1], "the behaviour has changed"
PYTHON
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
