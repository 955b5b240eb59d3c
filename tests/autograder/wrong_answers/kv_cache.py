"""Plausible wrong answers to `kv_cache`: one for each requirement that its text states. See `test_wrong_answers`.

Those of the pages, parts 6 to 10, are in `kv_cache_pages`; those of parts 11 to 16 in `kv_cache_tokens`.
"""

from wrong_answers.kv_cache_pages import PAGES
from wrong_answers.kv_cache_tokens import TOKENS

_STABLE = "np.exp(scores - scores.max(axis=-1, keepdims=True))"
_SCALE = " / np.sqrt(q.shape[-1])"
_REPEATED = """    keys, values = (
        np.repeat(keys, group, axis=0),
        np.repeat(values, group, axis=0),
    )
"""
_ATTENDED = "attention(q, keys[:, :end], values[:, :end], mask)"
_MASK = "np.arange(end) <= np.arange(used, end)[:, None]"
_POSITIONS = "np.where(real, real.cumsum(axis=1) - 1, 0)[:, total - queries :]"
_SEEN = "(column < new) & real[:, None, :] | (column == new)"

WRONG = {
    "cache-bytes": {
        "keys and values": ("2 * model", "model"),
        "every layer": ('model["layers"] * ', ""),
        "key-value heads, not query heads": ('model["kv_heads"]', 'model["heads"]'),
        "nor both": (
            '2 * model["layers"] * model["kv_heads"]',
            'model["layers"] * (model["kv_heads"] + model["heads"])',
        ),
        "each of head_dim numbers": (' * model["head_dim"]', ""),
        "bytes, not numbers": ("numbers * bytes_per_number", "numbers"),
        "the bytes per number count": ("numbers * bytes_per_number", "numbers * 2"),
        "bytes, not KiB": ("numbers * bytes_per_number", "numbers * bytes_per_number / 1024"),
        "of all sequences": ("sum(lengths)", "max(lengths)"),
        "of their own lengths": ("sum(lengths)", "max(lengths, default=0) * len(lengths)"),
        "also of none": (
            "return bytes_per_token(model, bytes_per_number) *",
            "lengths[0]\n    return bytes_per_token(model, bytes_per_number) *",
        ),
        "GiB, not GB": ("2**30", "10**9"),
        "nor MiB": ("2**30", "2**20"),
        "not rounded": (
            "return bytes_per_token(model, bytes_per_number) * sum(lengths) / 2**30",
            "return round(bytes_per_token(model, bytes_per_number) * sum(lengths) / 2**30, 3)",
        ),
        "the bytes per number count for the sum": (
            "bytes_per_token(model, bytes_per_number) * sum",
            "bytes_per_token(model) * sum",
        ),
    },
    "attend-one": {
        "scores are scaled": (_SCALE, ""),
        "by the root": (_SCALE, " / q.shape[-1]"),
        "of the head's width, not of the tokens": (_SCALE, " / np.sqrt(keys.shape[1])"),
        "weights add up to 1": ("    weights = weights / weights.sum(axis=-1, keepdims=True)\n", ""),
        "over the tokens, not the heads": ("weights.sum(axis=-1, keepdims=True)", "weights.sum(axis=0, keepdims=True)"),
        "large scores do not overflow": (_STABLE, "np.exp(scores)"),
        "nor does a small largest one vanish": (
            _STABLE,
            "np.exp(scores - np.maximum(scores.max(axis=-1, keepdims=True), 0))",
        ),
        "the largest of its own head": (_STABLE, "np.exp(scores - scores.max())"),
        "scores are not cut off": (_STABLE, "np.exp(np.clip(scores, -50, 50))"),
        "the newest token sees itself": (
            "    scores = np",
            "    keys, values = keys[:, :-1], values[:, :-1]\n    scores = np",
        ),
        "and the first": ("    scores = np", "    keys, values = keys[:, -8:], values[:, -8:]\n    scores = np"),
        "values are summed, not keys": ('"ht,htd->hd", weights, values', '"ht,htd->hd", weights, keys'),
        "consecutive heads share": (
            _REPEATED,
            "    keys, values = np.tile(keys, (group, 1, 1)), np.tile(values, (group, 1, 1))\n",
        ),
        "of the values, too": ("np.repeat(values, group, axis=0)", "np.tile(values, (group, 1, 1))"),
        "there may be fewer key heads": (_REPEATED, ""),
        "not all are head 0": (_REPEATED, "    keys, values = keys[[0] * len(q)], values[[0] * len(q)]\n"),
        "heads as rows": ('("ht,htd->hd", weights, values)', '("ht,htd->hd", weights, values)[:, None]'),
        "the keys stay as they are": ("    group =", "    keys /= np.sqrt(q.shape[-1])\n    group ="),
        "the answer is one's own": (
            "def attend_one(q, keys, values):\n"
            "    seen = np.ones((1, keys.shape[1]), dtype=bool)\n"
            "    return attention(q[:, None], keys, values, seen)[:, 0]"
        ),
    },
    "cached-attention": {
        "new tokens are behind the used ones": (
            "    keys[:, used:end] = k\n    values[:, used:end] = v",
            "    keys[:, : end - used] = k\n    values[:, : end - used] = v",
        ),
        "the keys are written": ("    keys[:, used:end] = k\n", ""),
        "and the values": ("    values[:, used:end] = v\n", ""),
        "keys are keys": ("values[:, used:end] = v", "values[:, used:end] = k"),
        "a new token does not see those after it": (_MASK, "np.ones((end - used, end), dtype=bool)"),
        "its place counts from used": (_MASK, "np.arange(end) <= np.arange(end - used)[:, None]"),
        "it sees itself": (_MASK, "(np.arange(end) < np.arange(used, end)[:, None]) | (np.arange(end) == 0)"),
        "and the tokens before this step": (
            _ATTENDED,
            "attention(q, keys[:, used:end], values[:, used:end], mask[:, used:])",
        ),
        "only the filled part takes part": [
            ("np.arange(end) <=", "np.arange(capacity) <="),
            (_ATTENDED, "attention(q, keys, values, mask)"),
        ],
        "and is not replaced by zeros": [
            ("keys.copy(), values.copy()", "np.nan_to_num(keys), np.nan_to_num(values)"),
        ],
        "the arrays keep their size": ("return output, keys, values", "return output, keys[:, :end], values[:, :end]"),
        "in another order": ("return output, keys, values", "return keys, values, output"),
        "keys before values": ("return output, keys, values", "return output, values, keys"),
        "what is given stays as it is": ("keys, values = keys.copy(), values.copy()", "pass"),
        "values, too, stay as they are": ("keys, values = keys.copy(), values.copy()", "keys = keys.copy()"),
        "a prompt of several tokens is possible": (
            _MASK,
            "np.arange(end) <= np.arange(used, end)[:1, None]",
        ),
        "a prompt in several steps, too": (
            _MASK,
            "np.arange(end) <= (np.arange(used, end) if used == 0 else np.full(end - used, end))[:, None]",
        ),
        "a full cache is refused": ("if end > capacity:", "if used > capacity:"),
        "also where several tokens come": ("if end > capacity:", "if used == capacity:"),
        "but it may become full": ("if end > capacity:", "if end >= capacity:"),
        "it does not wrap around": (
            '        raise ValueError(f"{end} tokens, and the cache has room for {capacity}")',
            "        keys, values = np.roll(keys, -1, axis=1), np.roll(values, -1, axis=1)\n"
            "        used, end = used - 1, end - 1",
        ),
        "with its capacity": ("the cache has room for {capacity}", "the cache is full"),
    },
    "left-padding": {
        "on the left": [
            ("[pad_id] * (longest - len(p)) + p", "p + [pad_id] * (longest - len(p))"),
            (">= longest - lengths[:, None]", "< lengths[:, None]"),
        ],
        "real is on the left, too": (">= longest - lengths[:, None]", "< lengths[:, None]"),
        "the pad id counts": ("[pad_id] *", "[0] *"),
        "a prompt may have the pad id": (
            "real = np.arange(longest) >= longest - lengths[:, None]",
            "real = ids != pad_id",
        ),
        "also at its beginning": (
            "real = np.arange(longest) >= longest - lengths[:, None]",
            "real = np.cumsum(ids != pad_id, axis=1) > 0",
        ),
        "nothing is cut off": [
            ("longest = lengths.max()", "longest = lengths.min()"),
            ("+ p for p", "+ p[-longest:] for p"),
        ],
        "as wide as the longest, not wider": ("lengths.max()", "lengths.max() + 1"),
        "not all of one fixed width": ("lengths.max()", "8 * -(-lengths.max() // 8)"),
        "real is of bool": ("return ids, real", "return ids, real.astype(int)"),
        "ids are integers": ("return ids, real", "return ids.astype(float), real"),
        "True where it is real": ("return ids, real", "return ids, ~real"),
        "ids first": ("return ids, real", "return real, ids"),
        "in the order of the prompts": ("    lengths =", "    prompts = sorted(prompts, key=len)\n    lengths ="),
        "the prompts stay as they are": (
            "    ids = np.array([[pad_id] * (longest - len(p)) + p for p in prompts])",
            "    for p in prompts:\n        p[:0] = [pad_id] * (longest - len(p))\n    ids = np.array(prompts)",
        ),
        "an empty prompt is refused": ("if lengths.min() == 0:", "if lengths.max() == 0:"),
        "wherever it is": ("if lengths.min() == 0:", "if lengths[0] == 0:"),
        "by this word": ("is empty", "has no tokens"),
        "not left out": (
            "    lengths = np.array([len(prompt) for prompt in prompts])",
            "    prompts = [p for p in prompts if p] or [[]]\n"
            "    lengths = np.array([len(prompt) for prompt in prompts])",
        ),
    },
    "padded-masks": {
        "padding is not counted": (_POSITIONS, "np.where(real, np.arange(total), 0)[:, total - queries :]"),
        "the first real token is at 0": ("real.cumsum(axis=1) - 1", "real.cumsum(axis=1)"),
        "padding is at 0": (_POSITIONS, "(real.cumsum(axis=1) - 1)[:, total - queries :]"),
        "a decode step does not begin at 0": (
            _POSITIONS,
            "np.where(real, real.cumsum(axis=1) - 1, 0)[:, :queries]",
        ),
        "nor with what is new": (
            _POSITIONS,
            "np.where(real, real[:, total - queries :].cumsum(axis=1)[:, -1:] - 1, 0)[:, total - queries :]",
        ),
        "positions of the queries, not of all": (_POSITIONS, "np.where(real, real.cumsum(axis=1) - 1, 0)"),
        "a row each": (_POSITIONS, f"{_POSITIONS}.max(axis=0)[None] + 0 * real[:, total - queries :]"),
        "padding is not seen": (_SEEN, "(column <= new) & np.ones_like(real)[:, None, :]"),
        "nothing that comes later is seen": (_SEEN, "real[:, None, :] | (column == new)"),
        "the columns before are seen": (_SEEN, "real[:, None, :] & (column == new) | (column == new)"),
        "the queries are the last columns": ("column[total - queries :, None]", "column[:queries, None]"),
        "each sees itself, padding too": (_SEEN, "(column <= new) & real[:, None, :]"),
        "padding sees itself alone": (_SEEN, f"{_SEEN} | ~real[:, total - queries :, None] & (column <= new)"),
        "a real token does not see all padding": (_SEEN, f"{_SEEN} | (column == 0)"),
        "the mask covers the cache": ("return positions, mask", "return positions, mask[:, :, total - queries :]"),
        "with padding in the cache": (
            _SEEN,
            "(column < new) & (real[:, None, :] | (queries == 1)) | (column == new)",
        ),
        "a mask for the queries alone": ("new = column[total - queries :, None]", "new = column[:, None]"),
        "of bool": ("return positions, mask", "return positions, np.where(mask, 0.0, -np.inf)"),
        "True where it is seen": ("return positions, mask", "return positions, ~mask"),
        "positions first": ("return positions, mask", "return mask, positions"),
        "positions are integers": ("return positions, mask", "return positions.astype(float), mask"),
        "real stays as it is": (
            "    return positions",
            "    real[:, 0] = True\n    return positions",
        ),
    },
    **PAGES,
    **TOKENS,
}
