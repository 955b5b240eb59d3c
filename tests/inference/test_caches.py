"""Caches: each gives the tokens that the plain one gives, until it drops some; and the bookkeeping of pages."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from course_lib.errors import CourseError
from course_lib.inference import generate, kv_bytes_per_token
from course_lib.inference.caches import (
    BlockTable,
    DynamicCache,
    Int8Cache,
    OutOfPages,
    PagedCache,
    PagePool,
    SinkCache,
    StaticCache,
    make_cache,
    useful_share,
)
from course_lib.inference.caches.plain import dequantize_rows, quantize_rows
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder

PROMPTS = [[5, 9, 31, 7, 8, 11], [3], [60, 61, 62]]


def our_llama():
    torch.manual_seed(1)
    return Decoder(DecoderConfig("llama", 97, 32, 2, 4, 128, 64, 2)).eval()


def our_gpt2():
    torch.manual_seed(1)
    return Decoder(DecoderConfig("gpt2", 97, 32, 2, 4, 128)).eval()


def their_gpt2():
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=97, n_positions=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def models(tiny_llama):
    return {"tiny_llama": tiny_llama, "our_llama": our_llama(), "our_gpt2": our_gpt2(), "their_gpt2": their_gpt2()}


# --- the same tokens as without a cache ---


@pytest.mark.parametrize("name", ["dynamic", "static", "paged", "sink"])
@pytest.mark.parametrize("which", ["tiny_llama", "our_llama", "our_gpt2", "their_gpt2"])
def test_a_cache_changes_no_token(models, name, which):
    model = models[which]
    if name == "sink" and "gpt2" in which:
        with pytest.raises(CourseError, match="has none. Use the paged cache with max_pages"):
            generate(model, PROMPTS, 5, cache=name)
        return
    without = generate(model, PROMPTS, 20, cache="none", eos_token_id=())
    assert generate(model, PROMPTS, 20, cache=name, eos_token_id=()) == without


@pytest.mark.parametrize("make", [DynamicCache, lambda: StaticCache(64), lambda: PagedCache(4)])
def test_logits_are_those_of_one_pass(make):
    model, tokens = our_llama(), torch.randint(0, 97, (2, 17), generator=torch.Generator().manual_seed(0))
    whole, cache, parts = model(tokens).logits, make(), []
    for start, stop in ((0, 9), (9, 10), (10, 15), (15, 17)):
        parts.append(model(tokens[:, start:stop], past_key_values=cache).logits)
    # float32 sums in another order: 1e-5 of logits about 1
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [DynamicCache, lambda: StaticCache(64), lambda: PagedCache(4)])
def test_transformers_own_loop_takes_our_caches(tiny_llama, make):
    prompt = torch.tensor([[5, 9, 31, 7]])
    expected = tiny_llama.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None)
    ours = tiny_llama.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None, past_key_values=make())
    assert ours.tolist() == expected.tolist()


@pytest.mark.parametrize("length", [7, -5])  # what stays, or what goes
@pytest.mark.parametrize("make", [DynamicCache, lambda: StaticCache(64), lambda: PagedCache(4)])
def test_after_a_crop_it_is_as_if_the_rest_had_never_been(make, length):
    model, tokens, cache = our_llama(), torch.arange(1, 13)[None], make()
    model(tokens, past_key_values=cache)
    cache.crop(length)
    assert cache.get_seq_length() == 7
    other = torch.tensor([[50, 51]])
    expected = model(torch.cat([tokens[:, :7], other], dim=1)).logits[:, 7:]
    torch.testing.assert_close(model(other, past_key_values=cache).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [DynamicCache, lambda: StaticCache(64), lambda: PagedCache(4)])
@pytest.mark.parametrize(("length", "left"), [(0, 12), (12, 12), (99, 12), (-12, 0), (-99, 0)])
def test_a_crop_leaves_no_less_than_nothing(make, length, left):
    cache = make()
    our_llama()(torch.arange(1, 13)[None], past_key_values=cache)
    cache.crop(length)
    assert cache.get_seq_length() == left


def test_a_static_cache_says_when_it_is_full():
    cache = StaticCache(4)
    cache.update(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2), 0)
    with pytest.raises(CourseError, match="room for 4 tokens and was given token 5"):
        cache.update(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 0)


def test_an_unknown_cache_is_refused(tiny_llama):
    with pytest.raises(CourseError, match="no cache 'rolling'. Choose one of none, dynamic, static"):
        generate(tiny_llama, [[1]], 2, cache="rolling")


# --- sizes ---


@pytest.mark.parametrize(
    ("config", "kib"),
    [
        (DecoderConfig("llama", 50272, 5120, 40, 40, 2048), 800),  # OPT-13B's shape
        (DecoderConfig("llama", 32000, 4096, 32, 32, 4096), 512),  # Llama-2-7B
        (DecoderConfig("llama", 128256, 4096, 32, 32, 8192, 14336, 8), 128),  # Llama-3-8B
    ],
)
def test_published_bytes_a_token(config, kib):
    assert kv_bytes_per_token(config) == kib * 1024


def test_measured_bytes_are_those_of_the_formula():
    model = our_llama()
    tokens = torch.zeros(3, 10, dtype=torch.long)
    for cache, slots in ((DynamicCache(), 30), (StaticCache(16), 48), (PagedCache(4, pages=12), 48)):
        model(tokens, past_key_values=cache)
        assert cache.nbytes() == slots * kv_bytes_per_token(model.config, torch.float32)


def test_useful_share_by_hand():
    assert useful_share([10, 3], reserved=20) == 13 / 40
    assert useful_share([10, 3], page_size=4) == 13 / 16
    with pytest.raises(CourseError, match="10 tokens does not fit into 8"):
        useful_share([10, 3], reserved=8)
    with pytest.raises(CourseError, match="`reserved`"):
        useful_share([10, 3])


# --- int8 ---


@given(st.integers(0, 2**31), st.sampled_from([1e-6, 1.0, 1e4]))
@settings(max_examples=25, deadline=None)
def test_eight_bits_are_off_by_half_a_scale_at_most(seed, size):
    x = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(seed)) * size
    stored, scales = quantize_rows(x)
    # half a step, and what the scale's own rounding to bfloat16 (2^-9) clips from the largest number (127 steps)
    bound = scales.float() * (0.5 + 127 * 2**-8)
    assert ((dequantize_rows(stored, scales, x.dtype) - x).abs() <= bound).all()


def test_zeros_stay_zeros_in_eight_bits():
    stored, scales = quantize_rows(torch.zeros(1, 1, 2, 4))
    assert not dequantize_rows(stored, scales, torch.float32).any()


def test_the_loss_of_an_int8_cache_is_small(tiny_llama):
    tokens = torch.randint(3, 97, (4, 40), generator=torch.Generator().manual_seed(0))
    exact = tiny_llama(tokens).logits
    ours = tiny_llama(tokens, past_key_values=Int8Cache(40)).logits
    assert 0 < (ours - exact).abs().max() < 0.01 * exact.abs().max()
    cache = Int8Cache(40)
    tiny_llama(tokens, past_key_values=cache)
    # heads of 8 here: 8 bytes and 2 for the scale, where float32 takes 32
    assert cache.nbytes() == 4 * 40 * kv_bytes_per_token(tiny_llama.config, 1) * 10 // 8


# --- sinks ---


def reference_with_sinks(model, tokens, sinks, window, steps):
    """Greedy decoding that recomputes the kept tokens' positions: not the cache's values, the paper's rule for keys."""
    # One layer suffices to write it down: with one layer, keys depend on their token and its position alone.
    kept = list(tokens)
    out = []
    for _ in range(steps):
        now = kept if len(kept) <= sinks + window else kept[:sinks] + kept[-window:]
        chosen = int(model(torch.tensor([now])).logits[0, -1].argmax())
        out.append(chosen)
        kept.append(chosen)
    return out


def test_keys_are_at_their_positions_in_the_cache():
    """With one layer a key depends on its token and position alone, so a window recomputed is the same thing."""
    torch.manual_seed(0)
    model = Decoder(DecoderConfig("llama", 97, 32, 1, 4, 512, 64, 2)).eval()
    prompt = [5, 9, 31, 7, 8]
    cache = make_cache("sink", model, 0, sinks=2, window=6)
    ours = generate(model, [prompt], 30, cache=cache, eos_token_id=())[0]
    assert ours == reference_with_sinks(model, prompt, 2, 6, 30)
    assert (cache.get_seq_length(), cache.dropped) == (8, 5 + 29 - 8)


def test_a_sink_cache_keeps_the_paper_example():
    """Figure 4 of the paper: tokens 0-3 and 6-8 in the cache, token 9 to come: its position is 7."""
    cache = SinkCache(torch.ones(2), sinks=4, window=4)
    for number in range(10):
        _, positions = cache.begin(None, torch.tensor([[number]]))
        keys = torch.full((1, 1, 1, 4), float(number))
        _, values = cache.update(keys, keys, 0)
    assert positions.tolist() == [[7]]
    assert values[0, 0, :, 0].tolist() == [0, 1, 2, 3, 6, 7, 8, 9]


def test_a_prompt_longer_than_the_window_is_read_in_parts():
    model = our_llama()
    prompt = [random.Random(0).randrange(97) for _ in range(50)]
    cache = make_cache("sink", model, 0, sinks=4, window=12)
    assert len(generate(model, [prompt], 5, cache=cache, eos_token_id=())[0]) == 5
    assert cache.get_seq_length() == 16


def test_sink_caches_refuse_what_they_cannot_do():
    cache = SinkCache(torch.ones(2), window=3)
    with pytest.raises(CourseError, match="rows of one length"):
        cache.begin(torch.ones(1, 2), torch.zeros(1, 2))
    with pytest.raises(CourseError, match="4 new tokens at once do not fit into a window of 3"):
        cache.begin(None, torch.zeros(1, 4))
    with pytest.raises(CourseError, match="cannot be cropped"):
        cache.crop(1)
    with pytest.raises(CourseError, match="window of 0"):
        SinkCache(torch.ones(2), window=0)


# --- pages ---


class Schedule:
    """Random arrivals, growth, forks, evictions, crops and ends, beside a list of what each row's text is."""

    def __init__(self, pages, page_size):
        self.memory = {}  # slot: what lies in it
        self.pool = PagePool(pages, page_size, self.copy)
        self.rows = []  # (table, text)
        self.counter = 0

    def copy(self, source, target):
        for place in range(self.pool.page_size):
            slot = source * self.pool.page_size + place
            if slot in self.memory:
                self.memory[target * self.pool.page_size + place] = self.memory[slot]

    def step(self, draw):
        action = draw(["arrive", "grow", "grow", "grow", "fork", "drop", "crop", "end"])
        if action == "arrive" or not self.rows:
            self.rows.append((BlockTable(), []))
        table, text = row = draw(self.rows)
        if action == "grow":
            self.grow(table, text, draw(range(1, 9)))
        elif action == "fork":
            self.rows.append((self.pool.fork(table), list(text)))
        elif action == "drop" and table.pages:
            self.pool.drop_first(table)
            del text[: self.pool.page_size]
        elif action == "crop":
            length = draw(range(len(text) + 1))
            self.pool.crop(table, length)
            del text[length:]
        elif action == "end":
            self.pool.free(table)
            self.rows = [other for other in self.rows if other is not row]

    def grow(self, table, text, tokens):
        needed, free = self.pool.pages_needed(table, tokens), self.pool.free_pages
        before = (list(table.pages), table.length)
        if needed > free:
            with pytest.raises(OutOfPages, match="are free"):
                self.pool.append(table, tokens)
            assert (table.pages, table.length) == before, "a refusal changes nothing"
            return
        for slot in self.pool.append(table, tokens):
            self.counter += 1
            self.memory[slot] = self.counter
            text.append(self.counter)
        assert self.pool.free_pages == free - needed

    def check(self):
        self.pool.check([table for table, _ in self.rows])
        for table, text in self.rows:
            assert [self.memory[self.pool.slot(table, place)] for place in range(table.length)] == text


@given(st.randoms(use_true_random=False), st.integers(2, 12), st.integers(1, 5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_pages_invariants_hold_over_random_schedules(chance, pages, page_size):
    """No page is lost, held twice or counted wrongly; and every row reads its own text, whatever the others do."""
    schedule = Schedule(pages, page_size)
    for _ in range(60):
        schedule.step(chance.choice)
        schedule.check()
    for table, _ in schedule.rows:
        schedule.pool.free(table)
    schedule.pool.check([])
    assert schedule.pool.free_pages == pages


def test_a_shared_page_is_copied_when_it_is_written_to():
    copies = []
    pool = PagePool(4, 4, lambda *pair: copies.append(pair))
    first = BlockTable()
    pool.append(first, 6)
    second = pool.fork(first)
    assert (pool.used_pages, copies) == (2, [])
    pool.append(second, 1)
    assert (pool.used_pages, copies) == (3, [(first.pages[1], second.pages[1])])
    pool.append(first, 1)  # it has its page to itself again
    assert (pool.used_pages, len(copies)) == (3, 1)


def test_rows_with_a_common_beginning_share_its_pages():
    model, beginning = our_llama(), list(range(1, 41))
    prompts = [[*beginning, last] for last in (50, 60, 70)]
    cache = PagedCache(page_size=8)
    ours = generate(model, prompts, 6, cache=cache, eos_token_id=())
    assert ours == generate(model, prompts, 6, cache="none", eos_token_id=())
    pages = cache.block_tables()
    assert pages[0][:5] == pages[1][:5] == pages[2][:5]
    assert len({table[5] for table in pages}) == 3
    cache.pool.check(cache.tables)


def test_eviction_forgets_the_oldest_page_alone():
    """While nothing is evicted the tokens are the plain cache's; later a row keeps its last pages."""
    model, prompt = our_llama(), [5, 9, 31]
    plain = generate(model, [prompt], 40, eos_token_id=())[0]
    cache = PagedCache(page_size=4, max_pages=3)
    ours = generate(model, [prompt], 40, cache=cache, eos_token_id=())[0]
    assert ours[:10] == plain[:10], "3 + 9 tokens fit into 3 pages of 4"
    assert (len(cache.tables[0].pages), cache.tables[0].dropped) == (3, 32)
    assert cache.get_seq_length() == 42 - 32
    roomy = PagedCache(page_size=4, max_pages=11)
    assert generate(model, [prompt], 40, cache=roomy, eos_token_id=())[0] == plain


def test_each_row_evicts_for_itself():
    model = our_llama()
    options = {"eos_token_id": ()}
    together = generate(model, PROMPTS, 30, cache=PagedCache(4, max_pages=3), **options)
    alone = [generate(model, [prompt], 30, cache=PagedCache(4, max_pages=3), **options)[0] for prompt in PROMPTS]
    assert together == alone


def test_a_long_prompt_is_read_in_parts_where_pages_are_few():
    model, prompt = our_llama(), [random.Random(1).randrange(97) for _ in range(50)]
    cache = PagedCache(page_size=4, max_pages=3)
    assert len(generate(model, [prompt], 5, cache=cache, eos_token_id=())[0]) == 5
    assert len(cache.tables[0].pages) == 3


def test_a_pool_of_a_fixed_size_says_when_it_is_full():
    with pytest.raises(OutOfPages, match="6 more tokens need 2 pages of 4, and 1 are free"):
        generate(our_llama(), [[1, 2, 3, 4, 5, 6]], 2, cache=PagedCache(page_size=4, pages=1))
    for sizes in ((0, 4), (4, 0)):
        with pytest.raises(CourseError, match="at least 1"):
            PagePool(*sizes)
    with pytest.raises(CourseError, match="not 0 and None"):
        PagedCache(0)
