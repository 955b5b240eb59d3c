"""Plausible wrong answers to `foundations`: one for each requirement that its text states. See `test_wrong_answers`."""

_FOLD_LEADING = "gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))"
_FOLD_STRETCHED = "return gradient.sum(axis=stretched, keepdims=True)"

GRADIENTS = {
    "multiply": {
        "a's gradient takes b": ("folded(g * b, a.shape)", "folded(g * a, a.shape)"),
        "leading axes are summed": (_FOLD_LEADING, "gradient = gradient.reshape(gradient.shape[-len(shape) :])"),
        "only those that are not there": (_FOLD_LEADING, "gradient = gradient.sum(axis=0)"),
        "axes of length 1 are summed": (_FOLD_STRETCHED, "return gradient"),
        "and stay": (_FOLD_STRETCHED, "return gradient.sum(axis=stretched)"),
        "b's gradient is folded, too": ("folded(g * a, b.shape)", "g * a"),
        "a's gradient is folded, too": ("folded(g * b, a.shape)", "g * b"),
        "uses add up": (_FOLD_STRETCHED, "return gradient.mean(axis=stretched, keepdims=True)"),
        "the value is the product": ("return a * b,", "return a + b,"),
        "send_back is returned": ("return a * b, send_back", "return a * b"),
        "a's gradient comes first": (
            "return folded(g * b, a.shape), folded(g * a, b.shape)",
            "return folded(g * a, b.shape), folded(g * b, a.shape)",
        ),
        "the gradient that arrives counts": ("folded(g * b, a.shape)", "folded(np.ones_like(g) * b, a.shape)"),
    },
    "walk": {
        "the result's own gradient is 1": ("    result.grad = 1.0\n", "    result.grad = result.value\n"),
        "gradients add up": ("parent.grad += gradient", "parent.grad = gradient"),
        "a node waits for its users": (
            "    visit(result)",
            "    order, waiting = [], [result]\n    while waiting:\n        node = waiting.pop(0)\n"
            "        if node not in order:\n"
            "            order.append(node)\n            waiting += node.parents\n    order.reverse()\n    visit",
        ),
        "and sends once": (
            "def backward(result):",
            "def backward(result, g=1.0):\n    result.grad += g\n"
            "    for parent, gradient in zip(result.parents, result.send_back(g) if "
            "result.parents else ()):\n        backward(parent, gradient)\n\n\ndef unused(result):",
        ),
        "each node is written down once": ("        if id(node) not in seen:", "        if True:"),
        "nodes are not known by their values": [
            ("id(node) not in", "node.value not in"),
            ("seen.add(id(node))", "seen.add(node.value)"),
        ],
        "backwards": ("reversed(order)", "order"),
        "all the way": ("reversed(order)", "list(reversed(order))[:10]"),
        "a source sends nothing": ("        if node.parents:\n            for", "        if True:\n            for"),
    },
    "matmul": {
        "the last two axes are exchanged": ("w.swapaxes(-1, -2)", "w.T"),
        "of x, too": ("x.swapaxes(-1, -2)", "x.T"),
        "a shared w's gradients add up": ("grad_w.sum(axis=shared)", "grad_w"),
        "not their mean": ("grad_w.sum(axis=shared)", "grad_w.mean(axis=shared)"),
        "only a shared one's": ("shared = tuple(range(x.ndim - w.ndim))", "shared = tuple(range(x.ndim - 2))"),
        "over all the leading axes": (
            "shared = tuple(range(x.ndim - w.ndim))",
            "shared = (0,) if x.ndim > w.ndim else ()",
        ),
        "x's gradient comes first": (
            "return g @ w.swapaxes(-1, -2), grad_w.sum(axis=shared)",
            "return grad_w.sum(axis=shared), g @ w.swapaxes(-1, -2)",
        ),
    },
    "embedding": {
        "an id that is repeated adds up": ("np.add.at(gradient, ids, g)", "gradient[ids] += g"),
        "a row that is not looked up gets zero": ("np.zeros_like(table)", "np.ones_like(table)"),
        "the gradient has the table's shape": ("return gradient\n", "return gradient[ids]\n"),
        "a negative id is refused": ("(ids < 0) | ", ""),
        "one without a row is refused": ("(ids < 0) | (ids >= len(table))", "ids < 0"),
        "also the first of them": ("ids >= len(table)", "ids > len(table)"),
        "the message names it": ("id {wrong[0]} is", "an id is"),
        "and not another one": ("id {wrong[0]} is", "id {ids.flat[0]} is"),
        "by a ValueError": ('raise ValueError(f"id {wrong[0]}', 'raise IndexError(f"id {wrong[0]}'),
        "ids have any shape": ("return table[ids], send_back", "return table[ids.ravel()], send_back"),
    },
    "log-softmax": {
        "large numbers": ("shifted = x - x.max(axis=-1, keepdims=True)", "shifted = x"),
        "each row by its own maximum": ("x.max(axis=-1, keepdims=True)", "x.max()"),
        "the logarithm of a probability that is 0 is not taken": (
            "value = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))",
            "value = np.log(np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True))",
        ),
        "over the last axis": ("np.exp(shifted).sum(axis=-1", "np.exp(shifted).sum(axis=0"),
        "the gradient takes the sum of g": ("g.sum(axis=-1, keepdims=True)", "g"),
        "and the probabilities": ("np.exp(value) *", "value *"),
        "not those of softmax": (
            "return g - np.exp(value) * g",
            "return np.exp(value) * (g - (g * np.exp(value)).sum(-1, keepdims=True)) - 0 * g",
        ),
    },
    "cross-entropy": {
        "the mean is over what counts": ("[kept].mean()", "[kept].sum() / labels.size"),
        "masked positions do not count": ("(log_p * onehot).sum(axis=-1)[kept]", "(log_p * onehot).sum(axis=-1)"),
        "their logits get no gradient": (" * kept[..., None]", ""),
        "the gradient is divided by N": (" / kept.sum()", ""),
        "by the number of labels that count": ("/ kept.sum()", "/ labels.size"),
        "-100 is not looked up": ("np.where(kept, labels, 0)", "labels"),
        "minus the logarithm": ("loss = -(log_p", "loss = (log_p"),
        "large logits": ("shifted = logits - logits.max(axis=-1, keepdims=True)", "shifted = logits"),
        "nothing to train on is refused": ("if not kept.any():", "if False:"),
        "in words": ("every label is -100: there", "there"),
        "by a ValueError": ("raise ValueError", "raise ZeroDivisionError"),
        "a label of -1 is not masked, 0 is not either": ("labels != -100", "labels > 0"),
        "the loss comes first": ("return loss, (", "return (0 * loss) or ("),
    },
    "layer-norm": {
        "eps is under the root": (
            "1 / np.sqrt(x.var(axis=-1, keepdims=True) + eps)",
            "1 / (np.sqrt(x.var(axis=-1, keepdims=True)) + eps)",
        ),
        "the variance divides by the length": (
            "x.var(axis=-1, keepdims=True)",
            "x.var(axis=-1, keepdims=True, ddof=1)",
        ),
        "of each row": [("x.mean(axis=-1, keepdims=True)", "x.mean()")],
        "eps is the one given": ("+ eps)", "+ 1e-5)"),
        "the weight is per column": ("normal * weight + bias", "normal * weight.mean() + bias"),
        "the bias is added": ("normal * weight + bias", "normal * weight"),
        "the mean depends on x": ("h - h.mean(axis=-1, keepdims=True) - along", "h - along"),
        "so does the variance": (" - along", ""),
        "h takes the weight": ("h = g * weight", "h = g"),
        "the weight's gradient takes x": ("(g * normal).sum(axis=leading)", "g.sum(axis=leading)"),
        "over every leading axis": ("leading = tuple(range(x.ndim - 1))", "leading = 0 if x.ndim > 1 else ()"),
        "the gradient is divided by the deviation": ("grad_x = inverse * (", "grad_x = 1.0 * ("),
    },
    "gelu": {
        "as GPT-2 computes it": (
            "t = np.tanh(c * (x + 0.044715 * x**3))",
            "t = np.vectorize(__import__('math').erf)(x / np.sqrt(2))",
        ),
        "not the quick one": ("t = np.tanh(c * (x + 0.044715 * x**3))", "t = np.tanh(0.851 * x)"),
        "the square root": ("c = np.sqrt(2 / np.pi)", "c = 2 / np.pi"),
        "the product rule's first half": ("0.5 * (1 + t) + 0.5 * x", "0.5 * x"),
        "and its second": ("0.5 * (1 + t) + 0.5 * x * (1 - t**2) * inner", "0.5 * (1 + t)"),
        "the chain rule": ("(1 - t**2) * inner", "(1 - t**2)"),
        "of a cube": ("3 * 0.044715", "0.044715"),
        "the gradient that arrives counts": ("lambda g: g * slope", "lambda g: slope"),
    },
}

MODEL = {
    "attention": {
        "scores are divided": (" / np.sqrt(d)", ""),
        "by the root": ("/ np.sqrt(d)", "/ d"),
        "of the queries' width": ("/ np.sqrt(d)", "/ np.sqrt(v.shape[-1])"),
        "the future is hidden": ("    scores = scores + np.triu(np.full((time, time), -np.inf), k=1)\n", ""),
        "not the past": (
            "np.triu(np.full((time, time), -np.inf), k=1)",
            "np.tril(np.full((time, time), -np.inf), k=-1)",
        ),
        "a position sees itself": (
            "-np.inf), k=1)",
            "-np.inf), k=1) + np.where(np.eye(time) * (np.arange(time) > 0), -np.inf, 0)",
        ),
        "before the softmax": (
            "    return weights / weights.sum(axis=-1, keepdims=True) @ v",
            "    weights = np.exp((q @ k.swapaxes(-1, -2) / np.sqrt(d)) - 0)\n"
            "    return np.tril(weights / weights.sum(axis=-1, keepdims=True)) @ v",
        ),
        "over the keys": ("weights.sum(axis=-1, keepdims=True)", "weights.sum(axis=-2, keepdims=True)"),
        "large scores": ("np.exp(scores - scores.max(axis=-1, keepdims=True))", "np.exp(scores)"),
        "each row by its own maximum": ("scores.max(axis=-1, keepdims=True)", "scores.max()"),
        "any leading axes": ("k.swapaxes(-1, -2)", "k.T"),
    },
    "block": {
        "it adds to x": ('x = x + linear(mixed, "attention.out_proj")', 'x = linear(mixed, "attention.out_proj")'),
        "the MLP, too": ("return x + linear(activated", "return linear(activated"),
        "the norm comes first": ('h = normalised(x, w["norm1.weight"], w["norm1.bias"])', "h = x"),
        "the second one, too": ('h = normalised(x, w["norm2.weight"], w["norm2.bias"])', "h = x"),
        "they are two norms": ('w["norm2.weight"]', 'w["norm1.weight"]'),
        "the sum is of the input, not of the normalised copy": ("x = x + linear(mixed", "x = h + linear(mixed"),
        "weights are (out, in)": ('w[f"{name}.weight"].T', 'w[f"{name}.weight"]'),
        "biases are added": (' + w[f"{name}.bias"]', ""),
        "heads are pieces side by side": (
            "x.reshape(*x.shape[:2], num_heads, -1).swapaxes(1, 2)",
            "x.reshape(*x.shape[:2], -1, num_heads).transpose(0, 3, 1, 2)",
        ),
        "and not times": (
            ".reshape(*x.shape[:2], num_heads, -1).swapaxes(1, 2)",
            ".reshape(x.shape[0], num_heads, x.shape[1], -1)",
        ),
        "put together in the same order": (
            "attended(q, k, v).swapaxes(1, 2).reshape(x.shape)",
            "attended(q, k, v).reshape(x.shape)",
        ),
        "several heads": ("num_heads, -1)", "1, -1)"),
        "queries, keys and values in order": ('for letter in "qkv"', 'for letter in "kqv"'),
        "through out_proj": ('linear(mixed, "attention.out_proj")', "mixed"),
        "GELU between": ('activated(linear(h, "up_proj"))', 'linear(h, "up_proj")'),
        "the MLP sees the attention's result": (
            'h = normalised(x, w["norm2.weight"]',
            "h = normalised(x - linear(mixed, 'attention.out_proj'), w[\"norm2.weight\"]",
        ),
    },
    "gpt": {
        "places are added": ('w["tokens.weight"][ids] + w["positions.weight"][:time]', 'w["tokens.weight"][ids]'),
        "from the first on": ('w["positions.weight"][:time]', 'w["positions.weight"][-time:]'),
        "all the blocks": ("range(num_layers)", "range(min(num_layers, 2))"),
        "in order": ("range(num_layers)", "reversed(range(num_layers))"),
        "each with its own arrays": ('start = f"blocks.{layer}."', 'start = "blocks.0."'),
        "blocks.1 is not blocks.11": [
            ("name.removeprefix(start): array", 'name.split(".", 2)[2]: array'),
            ("if name.startswith(start)", "if name.startswith(start[:-1])"),
        ],
        "the last norm": ('    x = normalised(x, w["norm.weight"], w["norm.bias"])\n', ""),
        "the head of its own": ('w.get("head.weight", w["tokens.weight"])', 'w["tokens.weight"]'),
        "or the tied one": ('w.get("head.weight", w["tokens.weight"])', 'w["head.weight"]'),
        "a text that is too long is refused": ("if time > most:", "if False:"),
        "one that just fits is not": ("if time > most:", "if time >= most:"),
        "with its length": ("{time} ids, but", "too many ids, but"),
        "and the number of places": ("only {most} positions", "fewer positions"),
        "by a ValueError": ("raise ValueError", "raise IndexError"),
    },
}

TOKENIZER = {
    "pair": {
        "words count as often as they occur": ("counts.get(pair, 0) + often", "counts.get(pair, 0) + 1"),
        "a pair counts twice in a word": ("for pair in zip(ids, ids[1:])", "for pair in set(zip(ids, ids[1:]))"),
        "of equal ones the smallest": ("key=lambda pair: (-counts[pair], pair)", "key=lambda pair: -counts[pair]"),
        "not the largest": ("key=lambda pair: (-counts[pair], pair)", "key=lambda pair: (-counts[pair], -pair[0])"),
        "one that occurs once is not worth it": (">= 2 else None", ">= 1 else None"),
        "twice is enough": (">= 2 else None", ">= 3 else None"),
        "no words, no pair": (", default=None)", ")"),
        "neighbours": ("zip(ids, ids[1:])", "zip(ids, ids[2:])"),
        "a tuple": ("return best if", "return best and list(best) if"),
    },
    "merges": {
        "the first id is 256": ("new = 256 + len(merges)", "new = 257 + len(merges)"),
        "the next count sees the new token": (
            "        words = {replaced(w, pair, new): often for w, often in words.items()}\n",
            "        words = {w: often for w, often in words.items() if pair not in zip(w, w[1:])}\n",
        ),
        "in every word": (
            "for w, often in words.items()}",
            "for w, often in list(words.items())[:1]} | dict(list(words.items())[1:])",
        ),
        "from the left": (
            "out.append(new if found else word[i])\n            i += 2 if found else 1",
            "out.append(new if found else word[i])\n            i += 1",
        ),
        "every occurrence": ("found = word[i : i + 2] == pair", "found = word[i : i + 2] == pair and new not in out"),
        "at most count": ("len(merges) < count", "len(merges) <= count"),
        "fewer where nothing occurs twice": ("            break", "            raise ValueError"),
        "in the order learnt": ("return merges", "return sorted(merges)"),
        "the dictionary stays": (
            "    merges = []",
            "    merges, given = [], words\n    words = dict(words)\n    given.clear()",
        ),
        "a list": ("return merges", "return dict.fromkeys(merges)"),
    },
    "encode": {
        "in the order learnt": (
            "    ids = list(word)",
            "    ids = list(word)\n"
            "    ranks = {tuple(pair): new for new, pair in enumerate(merges, start=256)}\n"
            "    i = 0\n"
            "    while i < len(ids) - 1:\n        new = ranks.get(tuple(ids[i : i + 2]))\n"
            "        if new is None:\n            i += 1\n"
            "        else:\n            ids[i : i + 2] = [new]\n            i = 0\n    return ids",
        ),
        "every occurrence": (
            "found = tuple(ids[i : i + 2]) == tuple(pair)",
            "found = tuple(ids[i : i + 2]) == tuple(pair) and new not in merged",
        ),
        "from the left": [
            (
                "        merged, i = [], 0",
                "        ids, pair = ids[::-1], tuple(pair)[::-1]\n        merged, i = [], 0",
            ),
            ("        ids = merged", "        ids = merged[::-1]"),
        ],
        "the first merge is 256": ("start=256", "start=257"),
        "of bytes": ("list(word)", "list(word.decode('utf-8', 'replace').encode('latin-1', 'replace'))"),
        "merges of merges": (
            "enumerate(merges, start=256)",
            "enumerate([pair for pair in merges if max(pair) < 256], start=256)",
        ),
        "a list": ("return ids", "return tuple(ids)"),
        "the merges stay": ("    ids = list(word)", "    merges.sort()\n    ids = list(word)"),
    },
    "decode": {
        "an id may stand for others in turn": (
            "pieces.append(pieces[left] + pieces[right])",
            "pieces.append(bytes([left % 256, right % 256]))",
        ),
        "one after the other": ("pieces[left] + pieces[right]", "pieces[right] + pieces[left]"),
        "the bytes are joined first": (
            'b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")',
            '"".join(pieces[i].decode("utf-8", errors="replace") for i in ids)',
        ),
        "half a character is replaced": ('decode("utf-8", errors="replace")', 'decode("utf-8")'),
        "and not left out": ('errors="replace"', 'errors="ignore"'),
        "as UTF-8": ('decode("utf-8", errors="replace")', 'decode("latin-1")'),
        "a negative id is refused": ("not 0 <= i < len(pieces)", "not i < len(pieces)"),
        "one behind the last is refused": ("not 0 <= i < len(pieces)", "i < 0"),
        "and the last is not": ("not 0 <= i < len(pieces)", "not 0 <= i < len(pieces) - bool(merges)"),
        "the message names it": ("id {i} is", "an id is"),
        "by a ValueError": ("raise ValueError", "raise KeyError"),
    },
}

OPTIMISERS = {
    "sgd": {
        "momentum keeps the velocity": ("momentum * v + (", "("),
        "decay is part of the gradient": ("(g + weight_decay * w)", "g"),
        "of the velocity, too": (
            "    v = momentum * v + (g + weight_decay * w)\n    return w - lr * v, v",
            "    v = momentum * v + g\n    return w - lr * (v + weight_decay * w), v",
        ),
        "the learning rate is not in the velocity": (
            "    v = momentum * v + (g + weight_decay * w)\n    return w - lr * v, v",
            "    v = momentum * v + lr * (g + weight_decay * w)\n    return w - v, v",
        ),
        "the velocity is not a mean": ("+ (g + weight_decay * w)", "+ (1 - momentum) * (g + weight_decay * w)"),
        "not Nesterov's": ("return w - lr * v, v", "return w - lr * (g + weight_decay * w + momentum * v), v"),
        "against the gradient": ("w - lr * v", "w + lr * v"),
        "w comes first": ("return w - lr * v, v", "return v, w - lr * v"),
        "w stays": ("return w - lr * v, v", "w -= lr * v\n    return w, v"),
        "v stays": ("v = momentum * v + (g + weight_decay * w)", "v *= momentum\n    v += g + weight_decay * w"),
    },
    "adamw": {
        "decay shrinks the weight": ("(1 - lr * weight_decay) * w", "w"),
        "it is not added to the gradient": [
            ("    beta1, beta2 = betas", "    beta1, beta2 = betas\n    g = g + weight_decay * w"),
            ("(1 - lr * weight_decay) * w", "w"),
        ],
        "it takes the learning rate": ("(1 - lr * weight_decay)", "(1 - weight_decay)"),
        "the first mean is corrected": ("m / (1 - beta1**step)", "m"),
        "and the second": ("v / (1 - beta2**step)", "v"),
        "for this step": ("(1 - beta1**step), v / (1 - beta2**step)", "(1 - beta1), v / (1 - beta2)"),
        "steps count from 1": (
            "beta1**step), v / (1 - beta2**step)",
            "beta1 ** (step + 1)), v / (1 - beta2 ** (step + 1))",
        ),
        "uncorrected means are kept": ("    return w, m, v", "    return w, m_hat, v_hat"),
        "eps is not under the root": ("(np.sqrt(v_hat) + eps)", "np.sqrt(v_hat + eps)"),
        "the gradient is squared": ("g**2", "np.abs(g)"),
        "betas are those given": ("beta1, beta2 = betas", "beta1, beta2 = 0.9, 0.999"),
        "w stays": ("    w = (1 - lr * weight_decay) * w - lr", "    w *= 1 - lr * weight_decay\n    w = w - lr"),
        "m stays": ("m = beta1 * m + (1 - beta1) * g", "m *= beta1\n    m += (1 - beta1) * g"),
        "w, m, v in this order": ("return w, m, v", "return m, v, w"),
    },
}

WRONG = GRADIENTS | MODEL | TOKENIZER | OPTIMISERS
