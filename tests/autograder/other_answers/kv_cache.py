"""Answers to `kv_cache`, part by part, that are right in another way than the reference."""

OTHERS = {
    "cache-bytes": """
def bytes_per_token(model, bytes_per_number=2):
    numbers = 0
    for layer in range(model["layers"]):
        numbers += model["kv_heads"] * model["head_dim"]  # keys
        numbers += model["kv_heads"] * model["head_dim"]  # values
    return np.int64(numbers * bytes_per_number)

def cache_gib(model, lengths, bytes_per_number=2):
    return sum(n * bytes_per_token(model, bytes_per_number) for n in lengths) / 1024 / 1024 / 1024
""",
    "attend-one": """
def attend_one(q, keys, values):
    kv_heads, _, head_dim = keys.shape
    grouped = q.reshape(kv_heads, -1, head_dim)
    scores = grouped @ keys.swapaxes(1, 2) * head_dim**-0.5
    scores = scores - scores.max(axis=2)[:, :, None]
    weights = np.exp(scores)
    return (weights @ values / weights.sum(axis=2)[:, :, None]).reshape(q.shape)
""",
    "cached-attention": """
def cached_attention(q, k, v, keys, values, used):
    n, capacity = q.shape[1], keys.shape[1]
    if used + n > capacity:
        raise ValueError("only " + str(capacity))
    keys = np.concatenate([keys[:, :used], k, keys[:, used + n :]], axis=1)
    values = np.concatenate([values[:, :used], v, values[:, used + n :]], axis=1)
    rows = []
    for i in range(n):
        end = used + i + 1
        rows.append(attention(q[:, i : i + 1], keys[:, :end], values[:, :end], np.ones((1, end), dtype=bool)))
    return np.concatenate(rows, axis=1), keys, values
""",
    "left-padding": """
def pad_left(prompts, pad_id):
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), pad_id)
    real = np.zeros(ids.shape, dtype=bool)
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError("an empty prompt")
        ids[row, -len(prompt) :] = prompt
        real[row, -len(prompt) :] = True
    return ids, real
""",
    "padded-masks": """
def positions_and_mask(real, queries):
    batch, total = real.shape
    positions = np.zeros((batch, queries), dtype=int)
    mask = np.zeros((batch, queries, total), dtype=bool)
    for b in range(batch):
        for i in range(queries):
            here = total - queries + i
            positions[b, i] = real[b, :here].sum() if real[b, here] else 0
            mask[b, i, :here] = real[b, :here]
            mask[b, i, here] = True
    return positions, mask
""",
    "append-tokens": """
def append_tokens(state, name, count):
    new = {key: value for key, value in state.items()}
    new["free"], new["counts"] = list(state["free"]), list(state["counts"])
    new["tables"] = {n: list(t) for n, t in state["tables"].items()}
    new["lengths"] = dict(state["lengths"])
    table = new["tables"].setdefault(name, [])
    for _ in range(count):
        length = new["lengths"].get(name, 0)
        if length == len(table) * state["page_size"]:
            if not new["free"]:
                return np.bool_(False), state
            page = new["free"].pop(0)
            new["counts"][page] += 1
            table.append(page)
        new["lengths"][name] = length + 1
    return np.bool_(True), new
""",
    "free-sequence": """
def free_sequence(state, name):
    import copy
    state = copy.deepcopy(state)
    if name not in state["lengths"]:
        raise ValueError(name)
    del state["lengths"][name]
    for page in state["tables"].pop(name):
        state["counts"][page] -= 1
        if not state["counts"][page]:
            state["free"].append(page)
    return state
""",
    "copy-on-write": """
import copy

def fork(state, parent, child):
    if parent not in state["tables"] or child in state["tables"]:
        raise ValueError(f"{parent!r} to {child!r}")
    state = copy.deepcopy(state)
    state["tables"][child] = state["tables"][parent][:]
    state["lengths"][child] = state["lengths"][parent]
    for page in state["tables"][child]:
        state["counts"][page] += 1
    return state

def append_one(state, name):
    before, state = state, copy.deepcopy(state)
    table, copies = state["tables"][name], []
    room = state["page_size"] * len(table) - state["lengths"][name]
    state["lengths"][name] += 1
    if room and state["counts"][table[-1]] == 1:
        return True, state, []
    if len(state["free"]) == 0:
        return False, before, []
    if room:
        old = table.pop()
        state["counts"][old] -= 1
        copies.append((old, state["free"][0]))
    table.append(state["free"][0])
    state["counts"][state["free"][0]] = 1
    del state["free"][0]
    return True, state, copies
""",
    "gather-pages": """
def gather_pages(pages, table, length):
    size = pages.shape[1]
    if -(-length // size) > len(table):
        raise ValueError(f"not {length}")
    return np.array([pages[table[i // size], i % size] for i in range(length)])
""",
    "useful-share": """
def useful_shares(lengths, max_length, page_size):
    for n in lengths:
        if n > max_length:
            raise ValueError(n)
    lengths = np.array(lengths)
    reserved = np.ceil(lengths / page_size) * page_size
    return lengths.mean() / max_length, lengths.sum() / reserved.sum()
""",
    "sink-positions": """
def sink_positions(length, sinks, window):
    kept = list(range(length))
    if length > sinks + window:
        kept = kept[:sinks] + kept[length - window :]
    return np.array(kept), np.array(range(len(kept)))
""",
    "sink-attention": """
def sink_attention(q, keys, values, sinks, window):
    total = keys.shape[1]
    start = max(sinks, total - window)
    k = np.concatenate([keys[:, :sinks], keys[:, start:]], axis=1)
    v = np.concatenate([values[:, :sinks], values[:, start:]], axis=1)
    n = k.shape[1]
    # only the distances count: the query at 0, the keys before it
    out = attention(q[:, None, :], rotate(k, np.arange(n) - (n - 1)), v, np.full((1, n), True))
    return out.reshape(q.shape)
""",
    "top-p": """
def top_p_filter(probs, top_p):
    if top_p < 0 or top_p > 1:
        raise ValueError(str(top_p))
    if top_p >= 1:
        return np.array(probs)
    kept, total = {}, 0.0
    for i in sorted(range(len(probs)), key=lambda i: (-probs[i], i)):
        kept[i] = probs[i]
        total += probs[i]
        if total >= top_p:
            break
    return np.array([kept.get(i, 0.0) / total for i in range(len(probs))])
""",
    "min-p": """
def min_p_filter(probs, min_p):
    if min_p > 1 or min_p < 0:
        raise ValueError(f"not {min_p}")
    new = probs.copy()
    new[new < new.max() * min_p] = 0
    return new / sum(new)
""",
    "accept-draft": """
def accept_draft(target, draft, tokens, uniforms):
    k = len(draft)
    places = np.arange(k)
    rejected = uniforms * draft[places, tokens] >= target[places, tokens]
    n = int(rejected.argmax()) if rejected.any() else k
    if n == k:
        return k, target[k].copy()
    rest = (target[n] - draft[n]).clip(min=0)
    return np.int64(n), rest / rest.sum()
""",
    "speed-up": """
def speed_up(a, k, c):
    if a < 0 or a > 1:
        raise ValueError(f"{a}")
    return sum(a**i for i in range(k + 1)) / (1 + k * c)

def best_guesses(a, c, most):
    return np.argmax([speed_up(a, k, c) for k in range(most + 1)])
""",
}
