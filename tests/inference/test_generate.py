"""Where generation ends, what a prompt's ids are, what is refused. That it is right: tests/parity/test_generate.py."""

import json
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from course_lib.data import chat_text
from course_lib.errors import CourseError
from course_lib.evaluation import compare_adapters as comparing
from course_lib.inference import CACHES, complete, end_tokens, generate, make_cache, prompt_ids
from course_lib.models.decoder import Decoder
from course_lib.models.huggingface import load_decoder, save_decoder
from course_lib.models.pretrained import load_model

WORDS = ["<pad>", "<s>", "</s>", "<|eot|>", "user", "assistant", "hi", "there", "you", "\n"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ' ' + m['content'] + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


def tokenizer(template=TEMPLATE, end=False):
    """Words, and as Llama's a begin token before every text; with `end` an end token after it, too."""
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = "<s> $A </s>" if end else "<s> $A"
    inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, additional_special_tokens=["<|eot|>"], **special)
    made.chat_template = template
    return made


class Counts:
    """A model that says 0, 1, 2, ... whatever it is given."""

    def __init__(self, **about):
        self.__dict__.update(about)
        self.given, self.cache, self.step = [], None, 0

    def parameters(self):
        return iter([torch.zeros(1)])

    def __call__(self, tokens, past_key_values=None, **_):
        if past_key_values is not self.cache:  # a new text
            self.cache, self.step, self.given = past_key_values, 0, tokens.tolist()
        logits = torch.nn.functional.one_hot(torch.full(tokens.shape, self.step), 10).float()
        self.step += 1
        return SimpleNamespace(logits=logits)


# --- where a text ends ---


@pytest.mark.parametrize(("ends", "length"), [(None, 8), (3, 3), ([5, 3], 3), ([9, 5], 5), ([], 8), ({0}, 0)])
def test_generation_stops_at_the_first_of_the_end_tokens(ends, length):
    assert generate(Counts(), [[4], [4, 5]], 8, eos_token_id=ends) == [list(range(length))] * 2


@pytest.mark.parametrize(
    ("about", "ends"),
    [
        ({}, {2}),
        ({"config": SimpleNamespace(eos_token_id=7)}, {2, 7}),
        ({"generation_config": SimpleNamespace(eos_token_id=[3, 7])}, {2, 3, 7}),
        ({"generation_config": SimpleNamespace(eos_token_id=3), "config": SimpleNamespace(eos_token_id=7)}, {2, 3}),
        ({"generation_config": SimpleNamespace(eos_token_id=None), "config": SimpleNamespace(eos_token_id=7)}, {2, 7}),
    ],
)
def test_the_configuration_names_end_tokens_too(about, ends):
    assert end_tokens(Counts(**about), tokenizer()) == ends


@pytest.mark.parametrize("load", [load_model, load_decoder])
@pytest.mark.parametrize("named", [3, [2, 3]])
def test_a_turns_end_that_generation_config_json_alone_names(tiny_llama, tmp_path, load, named):
    """As in Llama-3-Instruct and Gemma-it: config.json and the tokenizer know one end token, that file the turn's."""
    tiny_llama.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": named}))
    assert end_tokens(load(tmp_path), tokenizer()) == {2, 3}


@pytest.mark.parametrize("named", [3, [2, 3]])
@pytest.mark.parametrize("with_tokenizer", [False, True])
def test_a_decoder_that_is_saved_again_still_ends_its_turns(tiny_llama, tmp_path, named, with_tokenizer):
    """Such as one that was trained on: without the turn's end in its files, it would talk on."""
    tiny_llama.generation_config.eos_token_id = named
    tiny_llama.save_pretrained(tmp_path / "chat")
    words = tokenizer()
    save_decoder(load_decoder(tmp_path / "chat"), tmp_path / "again", words if with_tokenizer else None)
    ends = end_tokens(tiny_llama, words if with_tokenizer else None)
    assert end_tokens(load_decoder(tmp_path / "again")) == ends
    assert end_tokens(load_model(tmp_path / "again")) == ends
    save_decoder(Decoder(load_decoder(tmp_path / "chat").config), tmp_path / "new", words)
    assert end_tokens(load_decoder(tmp_path / "new")) == {2}, "a model that was made here has its tokenizer's alone"


def test_completions_end_where_the_turn_does():
    """The end token is not part of the text, and nothing comes after it."""
    model = Counts(generation_config=SimpleNamespace(eos_token_id=[9, 6]))
    done = complete(model, tokenizer(), ["hi there"], 9)
    assert done == ["<pad> <s>"], "token 2 is the tokenizer's own end"
    without = tokenizer()
    without.eos_token = None
    assert complete(model, without, ["hi"], 9) == ["<pad> <s> </s> <|eot|> user assistant"]


# --- what a prompt's ids are ---


def test_a_prompt_gets_one_begin_token():
    own = tokenizer()
    assert prompt_ids(own, "hi there") == [1, 6, 7]
    assert prompt_ids(own, "<s> hi there") == [1, 6, 7], "written in the text: not a second one"
    chat = chat_text(own, [{"role": "user", "content": "hi"}], True)
    assert own(chat)["input_ids"][:2] == [1, 1], "the tokenizer's own way doubles it"
    for template in (TEMPLATE, TEMPLATE.replace("{{ bos_token }}", "")):
        own.chat_template = template
        chat = chat_text(own, [{"role": "user", "content": "hi"}], True)
        expected = own.apply_chat_template(
            [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert prompt_ids(own, chat, from_template=True) == expected


def test_a_prompt_does_not_end_before_its_continuation():
    """add_eos_token is right for a document to train on, and wrong for a text that is to be continued."""
    assert tokenizer(end=True)("hi there")["input_ids"] == [1, 6, 7, 2]
    assert prompt_ids(tokenizer(end=True), "hi there") == [1, 6, 7]
    assert prompt_ids(tokenizer(), "hi </s>") == [1, 6, 2], "written in the text it stays"


def test_compare_chat_gives_the_model_what_transformers_would():
    model, own = Counts(), tokenizer()
    comparing.continue_all(model, own, ["hi", "you"], comparing.Sampling(1, 2, 0.0, chat=True))
    expected = own.apply_chat_template(
        [{"role": "user", "content": "you"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert model.given == [expected]
    assert expected[:2] != [1, 1]


# --- what is refused ---


def test_gpt2_has_no_position_beyond_its_table():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    assert len(generate(model, [[1, 2, 3]], 6)[0]) == 6  # the last new token is not fed back: positions 0 to 7
    with pytest.raises(CourseError, match="prompt of 3 tokens and 7 new ones do not fit into this model's 8 positions"):
        generate(model, [[1], [1, 2, 3]], 7)


@pytest.mark.parametrize("name", [name for name in CACHES if name != "none"])
def test_a_cache_that_holds_another_text_is_refused(tiny_llama, name):
    cache = make_cache(name, tiny_llama, 32)
    generate(tiny_llama, [[5, 9, 31]], 3, cache=cache, eos_token_id=())
    with pytest.raises(CourseError, match="5 tokens of another text"):
        generate(tiny_llama, [[5, 9, 31]], 3, cache=cache, eos_token_id=())
