"""Our caches in transformers' own `generate`: the tokens that its caches give, for each way of decoding that it has."""

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from course_lib.errors import CourseError
from course_lib.inference.caches import DynamicCache, Int8Cache, PagedCache, SinkCache, StaticCache

CACHES = {
    "dynamic": DynamicCache,
    "static": lambda: StaticCache(64),
    "int8": lambda: Int8Cache(64),
    "paged": lambda: PagedCache(4),
}
PROMPT = [3, 4, 5, 3, 4]
GREEDY = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 20}
# What transformers' caches have for models of other kinds, or for weights that move between devices.
OF_OTHER_MODELS = {
    *("get_conv_state", "update_conv_state", "get_recurrent_state", "update_recurrent_state", "has_previous_state"),
    *("update_indexer", "is_linear", "is_dummy", "is_recording_past"),
    *("prefetch", "offload", "early_initialization", "is_initialized", "batch_size"),
}


def llama(seed=0, layers=2):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=100, num_hidden_layers=layers)).eval()


@pytest.mark.parametrize("cache", [name for name in CACHES if name != "int8"])  # which rounds, and ties may part
@pytest.mark.parametrize(
    "way",
    [
        {},
        {"prompt_lookup_num_tokens": 3},
        {"assistant_model": llama(1, layers=1)},
        {"assistant_model": llama()},  # the model itself: every guess is kept, and transformers calls crop(0)
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
    ],
    ids=["greedy", "lookup", "draft", "perfect-draft", "beams", "two-of-four-beams"],
)
def test_transformers_generate_gives_the_same_tokens_with_our_caches(cache, way):
    model, prompt, kept = llama(), torch.tensor([PROMPT]), CACHES[cache]()
    expected = model.generate(prompt, **GREEDY, **way)
    assert model.generate(prompt, past_key_values=kept, **GREEDY, **way).tolist() == expected.tolist()
    assert kept.get_seq_length() == len(PROMPT) + 19  # the last token is not read


@pytest.mark.parametrize("make", CACHES.values(), ids=CACHES)
@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.crop(0),
        lambda cache: cache.crop(-3),
        lambda cache: cache.reorder_cache(torch.tensor([1, 1, 0])),
        lambda cache: cache.batch_select_indices(torch.tensor([2, 0])),
        lambda cache: cache.batch_select_indices(torch.tensor([True, False, True])),
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.activate_past_recording(),
        lambda cache: cache.reset(),
    ],
    ids=["crop-0", "crop-3", "reorder", "select", "select-by-mask", "repeat", "record", "reset"],
)
@torch.no_grad()
def test_each_change_does_to_our_caches_what_it_does_to_theirs(make, change):
    model, tokens = llama(), torch.arange(1, 22).view(3, 7)
    theirs, ours = transformers.DynamicCache(), make()
    after = []
    for cache in (theirs, ours):
        model(tokens, past_key_values=cache)
        change(cache)
        rows = theirs.layers[0].keys.shape[0] if theirs.get_seq_length() else 1
        after.append(model(torch.arange(50, 50 + rows)[:, None], past_key_values=cache).logits)
    assert ours.get_seq_length() == theirs.get_seq_length()
    # float32 sums in another order: 1e-5 of logits below 1; eight bits round keys and values to one part in 254
    torch.testing.assert_close(after[1], after[0], atol=5e-3 if isinstance(ours, Int8Cache) else 1e-5, rtol=0)


@pytest.mark.parametrize("make", [*CACHES.values(), lambda: SinkCache(torch.ones(4))], ids=[*CACHES, "sink"])
def test_nothing_that_transformers_calls_on_a_cache_is_missing(make):
    public = {name for name in dir(transformers.Cache) if not name.startswith("_")}
    assert {name for name in public - OF_OTHER_MODELS if not hasattr(make(), name)} == set()


def test_beams_that_go_on_with_one_text_share_its_pages():
    model, cache = llama(), PagedCache(4)
    model.generate(torch.tensor([PROMPT * 4]), past_key_values=cache, num_beams=4, **GREEDY)
    cache.pool.check(cache.tables)
    assert cache.pool.used_pages < sum(map(len, cache.block_tables()))


@pytest.mark.parametrize(
    "cache", [PagedCache(4, max_pages=2), SinkCache(torch.ones(4))], ids=["PagedCache", "SinkCache"]
)
def test_a_cache_that_drops_tokens_refuses_a_draft(cache, request):
    says = f"This {request.node.callspec.id} drops old tokens .* Use a static cache, or a paged one without max_pages"
    with pytest.raises(CourseError, match=says):
        llama().generate(torch.tensor([PROMPT]), past_key_values=cache, prompt_lookup_num_tokens=3, **GREEDY)


def test_a_cache_serves_another_batch_after_a_reset():
    for make in CACHES.values():
        cache = make()
        llama()(torch.arange(1, 22).view(3, 7), past_key_values=cache)
        cache.reset()
        assert cache.get_seq_length() == 0
        assert llama()(torch.tensor([PROMPT]), past_key_values=cache).logits.shape[0] == 1
