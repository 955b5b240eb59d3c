"""What transformers' caches and its assisted generation do, and what ours do in their place.

Items 29 (cropping a cache, going on with it) and 30 (assisted generation) of the list of library behaviours from which
chapter 08 was planned.
"""

import collections
import itertools

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from course_lib.errors import CourseError
from course_lib.inference import generate
from course_lib.inference.caches import DynamicCache as OurCache
from course_lib.inference.speculation import DraftModel, PromptLookup, generate_speculatively

PROMPT = [3, 4, 5, 3, 4]
GREEDY = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def llama(seed=0, words=100, layers=2, **changes):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=words, num_hidden_layers=layers, **changes)).eval()


def continued(model, new, **options):
    return model.generate(torch.tensor([PROMPT]), max_new_tokens=new, **GREEDY, **options)


@pytest.mark.library(
    package="transformers",
    happens="`DynamicCache.crop` takes the number of tokens to remove, as a negative number, and refuses a length",
    expected="`cache.crop(5)` keeps the first five tokens, as in older versions, and `cache[0]`, `cache.key_cache` "
    "and `cache.to_legacy_cache()` give the keys and values.",
    instead="Write `cache.crop(-n)`. Keys and values are in `cache.layers[0].keys` and `.values`; iterating gives "
    "a tuple of three for each layer. The caches of `course_lib.inference` take both: `crop(5)` keeps five tokens, "
    "`crop(-5)` removes five.",
    chapter="08_kv_cache",
)
@torch.no_grad()
def test_how_a_cache_is_cropped():
    model, ids = llama(), torch.arange(1, 13)[None]
    theirs, ours = DynamicCache(), OurCache()
    for cache in (theirs, ours):
        model(ids, past_key_values=cache)
    with pytest.raises(ValueError, match="not supported.*negative integer"):
        theirs.crop(7)
    theirs.crop(-5)
    ours.crop(7)
    assert theirs.get_seq_length() == ours.get_seq_length() == 7
    after = [model(torch.tensor([[50, 51]]), past_key_values=cache).logits for cache in (theirs, ours)]
    torch.testing.assert_close(after[0], after[1])
    assert not hasattr(theirs, "key_cache")
    assert not hasattr(theirs, "to_legacy_cache")
    with pytest.raises(TypeError):
        theirs[0]
    assert [len(layer) for layer in theirs] == [3, 3]


@pytest.mark.library(
    package="transformers",
    happens="The cache that `generate` returns lacks the last token, and going on with it changes it in place",
    expected="The cache covers the sequence that was returned with it, and a second `generate` leaves it as it was.",
    instead="Count on one token fewer, and copy the cache before you try two continuations. "
    "`course_lib.inference.generate` refuses a cache that holds another text, since most such calls are mistakes.",
    chapter="08_kv_cache",
)
def test_going_on_with_a_cache():
    model = llama()
    first = continued(model, 10, return_dict_in_generate=True)
    cache = first.past_key_values
    assert (cache.get_seq_length(), first.sequences.shape[1]) == (14, 15)
    more = model.generate(first.sequences, past_key_values=cache, max_new_tokens=5, **GREEDY)
    assert torch.equal(more, continued(model, 15))
    assert cache.get_seq_length() == 19  # the same object

    ours = OurCache()
    assert generate(model, [PROMPT], 10, cache=ours, eos_token_id=())[0] == first.sequences[0, 5:].tolist()
    assert ours.get_seq_length() == 14
    with pytest.raises(CourseError, match="holds 14 tokens of another text"):
        generate(model, [first.sequences[0].tolist()], 5, cache=ours, eos_token_id=())


@pytest.mark.library(
    package="transformers",
    happens="Assisted generation changes neither greedy tokens nor a sample's distribution, but takes no batch of two",
    expected="A draft model approximates the large one, and speeds up a batch as it does one prompt.",
    instead="Use it for one prompt at a time. `generate_speculatively` of `course_lib.inference` has the same limit, "
    "because each row would keep another number of guesses.",
    chapter="08_kv_cache",
)
@pytest.mark.parametrize("draft", ["lookup", "model"])
def test_assisted_generation_is_exact(draft):
    model, small = llama(), llama(1, layers=1)
    option = {"prompt_lookup_num_tokens": 3} if draft == "lookup" else {"assistant_model": small}
    plain = continued(model, 30)
    assisted = continued(model, 30, return_dict_in_generate=True, **option)
    assert torch.equal(assisted.sequences, plain)
    assert assisted.past_key_values.get_seq_length() == plain.shape[1] - 1
    with pytest.raises(ValueError, match="only supported for batch_size = 1"):
        model.generate(torch.tensor([PROMPT, PROMPT]), max_new_tokens=3, **GREEDY, **option)

    ours = PromptLookup() if draft == "lookup" else DraftModel(small)
    assert generate_speculatively(model, PROMPT, 30, ours, eos_token_id=()).tokens == plain[0, 5:].tolist()
    with pytest.raises(CourseError, match="continues one prompt"):
        generate_speculatively(model, [PROMPT, PROMPT], 3, ours)


def test_assisted_samples_are_distributed_as_the_models():
    """Pearson's chi-square of two tokens out of three words, against the enumerated distribution: 8 degrees of freedom.

    99.99 % of right samplers stay below 31.8. The same bound holds for ours.
    """
    model, small, draws = llama(2, words=3), llama(3, words=3, layers=1), 250
    for network in (model, small):
        network.lm_head.weight.data.mul_(4)  # far from uniform, and the draft from the model
    prompt, sampled = [0, 2], {"theirs": collections.Counter(), "ours": collections.Counter()}
    options = {"do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 2}
    torch.manual_seed(0)
    for seed in range(draws):
        theirs = model.generate(torch.tensor([prompt]), assistant_model=small, **options)
        sampled["theirs"][tuple(theirs[0, 2:].tolist())] += 1
        ours = generate_speculatively(model, prompt, 2, DraftModel(small), temperature=1, eos_token_id=(), seed=seed)
        sampled["ours"][tuple(ours.tokens)] += 1
    expected = {pair: draws * probability_of(model, prompt, pair) for pair in itertools.product(range(3), repeat=2)}
    for counts in sampled.values():
        assert sum((counts[pair] - mean) ** 2 / mean for pair, mean in expected.items()) < 31.8


@torch.no_grad()
def probability_of(model, prompt, pair):
    logits = model(torch.tensor([[*prompt, *pair]])).logits[0, len(prompt) - 1 : -1]
    p = logits.softmax(dim=-1)
    return float(p[0, pair[0]] * p[1, pair[1]])


@pytest.mark.library(
    package="transformers",
    happens="After a padded prompt, a step whose mask covers only the new token is silently wrong",
    expected="The cache knows what was padding, so the mask of the new token is enough, or there is an error.",
    instead="Pass a mask over all columns, those in the cache included: append a 1 to each row before each step. "
    "`generate` does so, theirs and that of `course_lib.inference`.",
    chapter="08_kv_cache",
)
@torch.no_grad()
def test_a_step_after_a_padded_prompt_needs_the_whole_mask():
    model = llama(initializer_range=0.3)  # large weights, so that attention decides
    ids, mask = torch.tensor([[0, 0, 0, 5, 6], [1, 2, 3, 4, 5]]), torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
    new, position = torch.tensor([[7], [8]]), torch.tensor([[2], [5]])
    alone = model(torch.tensor([[5, 6, 7]])).logits[0, -1]

    def after(step_mask):
        cache = DynamicCache()
        model(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0), past_key_values=cache)
        return model(new, attention_mask=step_mask, position_ids=position, past_key_values=cache).logits[0, -1]

    whole = torch.cat([mask, torch.ones(2, 1, dtype=torch.long)], dim=1)
    torch.testing.assert_close(after(whole), alone, rtol=1e-3, atol=1e-4)
    for short in (torch.ones(2, 1, dtype=torch.long), None):
        assert (after(short) - alone).abs().max() > 0.1


@pytest.mark.library(
    package="transformers",
    happens="`generate` without a length adds 20 tokens to the prompt, however long the prompt is",
    expected="It goes on to an end token, or `max_length=20` counts the prompt as it says.",
    instead="Always pass `max_new_tokens`. `course_lib.inference.generate` has no default for it.",
    chapter="08_kv_cache",
)
@pytest.mark.parametrize("length", [3, 30])
def test_twenty_new_tokens_by_default(length):
    prompt = torch.arange(1, length + 1)[None]
    assert llama().generate(prompt, **GREEDY).shape[1] == length + 20
    with pytest.raises(TypeError, match="max_new_tokens"):
        generate(llama(), prompt.tolist())
