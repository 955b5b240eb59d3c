"""What transformers does that changes a result and raises nothing."""

import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 100}
CONFIG = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=4)


def llama(seed=0, **changes):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**CONFIG.to_dict(), **changes})).eval()


def word_tokenizer(*words):
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["?", *words])}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.library(
    package="transformers",
    happens="With eager attention, a boolean mask of four axes hides nothing, not even the tokens ahead",
    expected="True means that a query may see a key, whichever implementation computes attention.",
    instead="“eager” adds the mask to the scores, so True is 1 and False is 0. Give it a float mask (0 and minus "
    "infinity), "
    "or use “sdpa”. Otherwise documents packed into one row see each other and the future, and the loss looks too "
    "good.",
    chapter="06_sft",
)
@torch.no_grad()
def test_eager_attention_and_a_boolean_mask():
    model, ids = llama(), torch.arange(1, 6)[None]
    mask = torch.tril(torch.ones(5, 5, dtype=torch.bool))[None, None]
    changed = ids.clone()
    changed[0, 4] = 50  # the last token: no earlier position may notice

    def noticed(kind):
        model.set_attn_implementation(kind)
        logits = [model(tokens, attention_mask=mask).logits[0, :4] for tokens in (ids, changed)]
        return (logits[0] - logits[1]).abs().max().item()

    assert noticed("sdpa") < 1e-5
    assert noticed("eager") > 1e-4


@pytest.mark.library(
    package="transformers",
    happens="`save_pretrained` applies `key_mapping` backwards, so the folder loads as random weights",
    expected="`key_mapping` says how a file's names are read, and saving writes the model's own names.",
    instead="Rename the tensors in the file once, with safetensors, and load without a mapping. Look at "
    "`output_loading_info=True` after every load: missing keys are only reported.",
    chapter="02_full_finetuning",
)
def test_a_key_mapping_is_reversed(tmp_path):
    from safetensors.torch import load_file, save_file

    model, compiled, again = llama(), tmp_path / "compiled", tmp_path / "again"
    model.save_pretrained(compiled)
    file = compiled / "model.safetensors"
    save_file({"_orig_mod." + name: t for name, t in load_file(file).items()}, file, metadata={"format": "pt"})
    read = LlamaForCausalLM.from_pretrained(compiled, key_mapping={r"^_orig_mod\.": ""})
    assert same(model, read)
    read.save_pretrained(again)
    reread, info = LlamaForCausalLM.from_pretrained(again, output_loading_info=True)
    assert info["missing_keys"]
    assert not same(model, reread)


@pytest.mark.library(
    package="transformers",
    happens="Saving in shards over a folder that holds `model.safetensors` changes nothing: the old model is loaded",
    expected="A folder holds the model that was saved into it last.",
    instead="Save into an empty folder, or remove `model.safetensors` first.",
    chapter="04_merging",
)
def test_shards_beside_an_old_file(tmp_path):
    old, new = llama(0), llama(1)
    old.save_pretrained(tmp_path)
    new.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert same(LlamaForCausalLM.from_pretrained(tmp_path), old)


@pytest.mark.library(
    package="transformers",
    happens="A wrong entry in `weight_map` changes nothing: the index serves only as a list of files",
    expected="The index says which shard a tensor is read from.",
    instead="Write every tensor into one shard only. Of a tensor that stands in two shards the later file wins.",
    chapter="04_merging",
)
def test_the_index_is_a_list_of_files(tmp_path):
    model = llama()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    names = sorted(index["weight_map"])
    shifted = [index["weight_map"][name] for name in (*names[1:], names[0])]
    assert shifted != [index["weight_map"][name] for name in names]
    path.write_text(json.dumps(index | {"weight_map": dict(zip(names, shifted, strict=True))}))
    assert same(LlamaForCausalLM.from_pretrained(tmp_path), model)


@pytest.mark.library(
    package="transformers",
    happens="A model whose configuration says “tied” is untied when its file holds two different matrices",
    expected="With `tie_word_embeddings=True` the output matrix is the embedding.",
    instead="Leave `lm_head.weight` out of the file, or call `model.tie_weights()` after loading and compare the "
    "pointers.",
    chapter="05_qlora",
)
def test_tied_in_name_alone(tmp_path):
    from safetensors.torch import load_file, save_file

    llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    head = tensors["model.embed_tokens.weight"].clone()
    head[0, 0] += 1
    save_file(tensors | {"lm_head.weight": head}, file, metadata={"format": "pt"})
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()


@pytest.mark.library(
    package="transformers",
    happens="`Trainer` does not pass `num_items_in_batch` to a model whose `forward` names it",
    expected="A `forward(..., num_items_in_batch=None)` is told how many targets the whole step has.",
    instead="Only a `forward` with `**kwargs` is told. Take it from there; otherwise Trainer averages the means of the "
    "micro-batches, and a token of a short one weighs more.",
    chapter="02_full_finetuning",
)
def test_a_named_num_items_in_batch(tmp_path):
    from transformers import Trainer, TrainingArguments

    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.given = torch.nn.Parameter(torch.ones(1)), []

        def forward(self, x, labels, num_items_in_batch=None):
            self.given.append(num_items_in_batch)
            return {"loss": (self.weight * x).sum()}

    class Open(Named):
        def forward(self, x, labels, **others):
            return super().forward(x, labels, others.get("num_items_in_batch"))

    given = {}
    for kind in (Named, Open):
        model, rows = kind(), [{"x": [1.0, 2.0], "labels": [1, 1]}] * 2
        arguments = TrainingArguments(
            str(tmp_path), max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=2, use_cpu=True,
            report_to="none", disable_tqdm=True, save_strategy="no", logging_strategy="no",
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=rows).train()
        given[kind] = [number if number is None else int(number) for number in model.given]
    assert given == {Named: [None, None], Open: [4, 4]}


@pytest.mark.library(
    package="transformers",
    happens="`do_sample=True` alone samples from the 50 likeliest tokens",
    expected="Sampling without further settings draws from the model's distribution.",
    instead="Set `top_k=0` (and `top_p=1.0`, `temperature=1.0`) when the distribution itself is wanted, for example to "
    "estimate pass@k or a reward.",
    chapter="08_kv_cache",
)
@torch.no_grad()
def test_sampling_means_the_top_50():
    model, prompt = llama(), torch.tensor([[3, 4, 5]])
    allowed = set(model(prompt).logits[0, -1].topk(50).indices.tolist())
    options = dict(do_sample=True, max_new_tokens=1, num_return_sequences=400, pad_token_id=0)
    assert set(model.generate(prompt, **options)[:, -1].tolist()) <= allowed
    assert not set(model.generate(prompt, **options, top_k=0)[:, -1].tolist()) <= allowed


@pytest.mark.library(
    package="transformers",
    happens="Among equal probabilities, top-p keeps the last ones, and top-k keeps them all",
    expected="top-k 1 keeps one token; top-p keeps ties in the order of their ids.",
    instead="Break ties yourself where a test compares tokens. `top_k=1` is not greedy decoding: use "
    "`do_sample=False`.",
    chapter="08_kv_cache",
)
def test_ties():
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    def kept(warper, *probabilities):
        scores = warper(None, torch.tensor([probabilities]).log())
        return scores[0].isfinite().nonzero().flatten().tolist()

    assert kept(TopPLogitsWarper(0.75), 0.5, 0.25, 0.25) == [0, 2]
    assert kept(TopPLogitsWarper(0.5), 0.25, 0.25, 0.25, 0.25) == [2, 3]
    assert kept(TopKLogitsWarper(1), 0.4, 0.4, 0.2) == [0, 1]


@pytest.mark.library(
    package="transformers",
    happens="A forward pass with left padding needs `position_ids`, which only `generate` makes",
    expected="The attention mask is enough: padding does not change the logits of the real tokens.",
    instead="Pass `position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)`. Learned positions (GPT-2) are off "
    "otherwise.",
    chapter="08_kv_cache",
)
@torch.no_grad()
def test_left_padding_without_positions():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=32, n_layer=2, n_head=4)).eval()
    model.transformer.wpe.weight.mul_(20)
    ids = torch.tensor([[5, 6, 7]])
    padded, mask = torch.tensor([[0, 0, 5, 6, 7]]), torch.tensor([[0, 0, 1, 1, 1]])
    alone = model(ids).logits[0, -1]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    torch.testing.assert_close(model(padded, attention_mask=mask, position_ids=positions).logits[0, -1], alone)
    assert (model(padded, attention_mask=mask).logits[0, -1] - alone).abs().max() > 0.01


@pytest.mark.library(
    package="transformers",
    happens="`split_special_tokens=True` stays set in the backend tokenizer after the call",
    expected="An option of one call concerns that call.",
    instead="Set `backend_tokenizer.encode_special_tokens` yourself before you use the backend; the next call of the "
    "transformers tokenizer sets it back.",
    chapter="01_datasets",
)
def test_an_option_outlives_its_call():
    tokenizer = word_tokenizer("a", "<", "end", ">")
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    backend = tokenizer.backend_tokenizer
    assert backend.encode("a <end>").tokens == ["a", "<end>"]
    tokenizer("a <end>", split_special_tokens=True)
    assert backend.encode("a <end>").tokens == ["a", "<", "end", ">"]
    tokenizer("a <end>")
    assert backend.encode("a <end>").tokens == ["a", "<end>"]


@pytest.mark.library(
    package="transformers",
    happens="A control token that a user types becomes the real control token",
    expected="Text from outside is text: only the template writes control tokens.",
    instead="Encode what users write with `split_special_tokens=True`, or refuse control tokens in it. `course sft` "
    "and `course dpo` name records that have them.",
    chapter="01_datasets",
)
def test_a_typed_control_token_is_the_real_one():
    tokenizer = word_tokenizer("a", "<", "end", ">")
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a <end> a"}])["input_ids"]
    assert ids[1] == tokenizer.eos_token_id


@pytest.mark.library(
    package="transformers",
    happens="`assistant_masks` marks the user's words too when the assistant speaks first with one token",
    expected="The mask is 1 inside `{% generation %}` blocks and 0 elsewhere.",
    instead="A block whose last token has the index 0 counts as one without an end. Compare the mask with a mask of "
    "your "
    "own, as `course_lib.data` does, before you train on it.",
    chapter="06_sft",
)
def test_the_assistants_mask_after_a_first_token():
    tokenizer = word_tokenizer("a", "b", "c")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
        "{{ ' ' }}{% else %}{{ m['content'] + ' ' }}{% endif %}{% endfor %}"
    )

    def mask(*turns):
        messages = [{"role": role, "content": text} for role, text in turns]
        options = {"return_dict": True, "return_assistant_tokens_mask": True}
        return list(tokenizer.apply_chat_template(messages, **options)["assistant_masks"])

    assert mask(("user", "b"), ("assistant", "a"), ("user", "b")) == [0, 1, 0]
    assert mask(("assistant", "a"), ("user", "b"), ("assistant", "c")) == [1, 1, 1]


def gguf_tokens(folder, rule):
    """How a GGUF file that names this splitting rule cuts two line breaks before a number."""
    from gguf import GGUFWriter
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

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
    return AutoTokenizer.from_pretrained(folder, gguf_file=f"{rule}.gguf").tokenize("\n\n45")


@pytest.mark.library(
    package="transformers",
    happens="A GGUF file whose splitting rule transformers does not know is read with GPT-2's rule",
    expected="The tokenizer is the one that the file describes, or the file is refused.",
    instead="Set the pre-tokenizer yourself. “smollm” is such a rule: `course_lib.models.gguf_tokenizer` sets it, "
    "because the "
    "model has learnt two line breaks before a number as one token.",
    chapter="01_datasets",
)
def test_a_splitting_rule_falls_back(tmp_path):
    assert gguf_tokens(tmp_path, "qwen2") == ["ĊĊ", "4", "5"]
    assert gguf_tokens(tmp_path, "smollm") == gguf_tokens(tmp_path, "gpt-2") == ["Ċ", "Ċ", "4", "5"]


@pytest.mark.library(
    package="transformers",
    happens="`config.rope_theta = 500000.0` is accepted and saved, and does nothing",
    expected="It changes the base of the rotary positions, as in transformers 4, or is refused.",
    instead='Set `config.rope_parameters["rope_theta"]`, and look at `model.model.rotary_emb.inv_freq`.',
    chapter="02_full_finetuning",
)
def test_the_base_of_the_positions_is_elsewhere(tmp_path):
    def second_frequency(config):
        return LlamaForCausalLM(config).model.rotary_emb.inv_freq[1].item()

    config = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=4)
    before = second_frequency(config)
    config.rope_theta = 500000.0
    assert second_frequency(config) == before
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["rope_theta"] == 500000.0
    assert second_frequency(LlamaConfig.from_pretrained(tmp_path)) == before
    config.rope_parameters["rope_theta"] = 500000.0
    assert second_frequency(config) < before
