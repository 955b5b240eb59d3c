"""Right answers to `foundations` that differ from the reference: other ways, other names. See `test_other_answers`."""

OTHERS = {
    "multiply": """
def back_to(array, shape):
    while array.ndim > len(shape):
        array = np.sum(array, axis=0)
    for axis in range(len(shape)):
        if shape[axis] == 1 and array.shape[axis] != 1:
            array = array.sum(axis, keepdims=True)
    return array


def multiply(first, second):
    print("a product of", first.shape, second.shape)
    return np.multiply(first, second), lambda upstream: (
        back_to(upstream * second, first.shape),
        back_to(upstream * first, second.shape),
    )
""",
    "walk": """
def backward(node):
    order, done, stack = [], set(), [(node, False)]
    while stack:
        current, ready = stack.pop()
        if ready:
            order.append(current)
        elif current not in done:
            done.add(current)
            stack.append((current, True))
            stack.extend((parent, False) for parent in current.parents)
    node.grad = 1
    while order:
        current = order.pop()
        if current.send_back is not None:
            for parent, piece in zip(current.parents, current.send_back(current.grad)):
                parent.grad = parent.grad + piece
""",
    "matmul": """
def matmul(X, W):
    def send_back(G):
        to_x = np.matmul(G, np.swapaxes(W, -1, -2))
        if W.ndim < X.ndim:
            to_w = X.reshape(-1, X.shape[-1]).T @ G.reshape(-1, G.shape[-1])
        else:
            to_w = np.einsum("...nk,...nm->...km", X, G)
        return to_x, to_w

    return np.matmul(X, W), send_back
""",
    "embedding": """
def embedding(weights, tokens):
    for token in np.ravel(tokens).tolist():
        if token < 0 or token > len(weights) - 1:
            raise ValueError("no row for " + str(token))

    def send_back(g):
        out = np.zeros(weights.shape)
        for token, row in zip(np.ravel(tokens), np.reshape(g, (-1, weights.shape[1]))):
            out[token] += row
        return out

    return np.take(weights, tokens, axis=0), send_back
""",
    "log-softmax": """
def log_softmax(logits):
    top = np.max(logits, axis=-1, keepdims=True)
    logs = logits - (top + np.log(np.sum(np.exp(logits - top), -1, keepdims=True)))
    return logs, lambda g: g - np.exp(logs) * np.sum(g, -1, keepdims=True)
""",
    "cross-entropy": """
def cross_entropy(logits, labels):
    flat, wanted = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    counted = [i for i, label in enumerate(wanted) if label != -100]
    if len(counted) == 0:
        raise ValueError("nothing but -100")
    grad, loss = np.zeros(flat.shape), 0.0
    for i in counted:
        row = flat[i] - flat[i].max()
        logs = row - np.log(np.exp(row).sum())
        loss -= logs[wanted[i]] / len(counted)
        grad[i] = np.exp(logs) / len(counted)
        grad[i, wanted[i]] -= 1 / len(counted)
    return float(loss), grad.reshape(logits.shape)
""",
    "layer-norm": """
def layer_norm(x, w, b, eps=1e-5):
    n = x.shape[-1]
    mu = x.sum(-1, keepdims=True) / n
    sigma = np.sqrt(((x - mu) ** 2).sum(-1, keepdims=True) / n + eps)
    x_hat = (x - mu) / sigma

    def send_back(g):
        h = w * g
        to_x = (h - h.mean(-1, keepdims=True) - x_hat * (h * x_hat).mean(-1, keepdims=True)) / sigma
        return to_x, (g * x_hat).reshape(-1, n).sum(0), g.reshape(-1, n).sum(0)

    return w * x_hat + b, send_back
""",
    "gelu": """
def gelu(z):
    root = (2 / np.pi) ** 0.5
    u = root * (z + 0.044715 * np.power(z, 3))
    value = z * (1 + np.tanh(u)) / 2
    derivative = (1 + np.tanh(u)) / 2 + z / 2 / np.cosh(np.clip(u, -300, 300)) ** 2 * root * (1 + 0.134145 * z * z)

    def send_back(g):
        return derivative * g

    return value, send_back
""",
    "attention": """
def causal_attention(queries, keys, values):
    n = queries.shape[-2]
    out = np.zeros(queries.shape[:-1] + values.shape[-1:])
    for t in range(n):
        scores = np.einsum("...d,...kd->...k", queries[..., t, :], keys[..., : t + 1, :]) / queries.shape[-1] ** 0.5
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[..., t, :] = np.einsum("...k,...kw->...w", weights, values[..., : t + 1, :])
    return out
""",
    "block": """
def affine(w, name, x):
    return np.einsum("bti,oi->bto", x, w[name + ".weight"]) + w[name + ".bias"]


def block(x, w, heads):
    inner = normalised(x, w["norm1.weight"], w["norm1.bias"])
    q = affine(w, "attention.q_proj", inner)
    k = affine(w, "attention.k_proj", inner)
    v = affine(w, "attention.v_proj", inner)
    size, pieces = x.shape[2] // heads, []
    for h in range(heads):
        piece = slice(h * size, (h + 1) * size)
        pieces.append(attended(q[:, None, :, piece], k[:, None, :, piece], v[:, None, :, piece])[:, 0])
    y = x + affine(w, "attention.out_proj", np.concatenate(pieces, axis=2))
    inner = normalised(y, w["norm2.weight"], w["norm2.bias"])
    return y + affine(w, "down_proj", activated(affine(w, "up_proj", inner)))
""",
    "gpt": """
def gpt(ids, weights, num_heads, num_layers):
    batch, time = np.shape(ids)
    table, places = weights["tokens.weight"], weights["positions.weight"]
    if time > places.shape[0]:
        raise ValueError("a text of " + str(time) + " for " + str(places.shape[0]))
    x = np.stack([table[row] for row in ids]) + places[None, :time]
    names = [name[9:] for name in weights if name.startswith("blocks.0.")]
    for i in range(num_layers):
        x = library_block(x, {name: weights["blocks." + str(i) + "." + name] for name in names}, num_heads)
    x = normalised(x, weights["norm.weight"], weights["norm.bias"])
    if "head.weight" in weights:
        table = weights["head.weight"]
    return np.einsum("btw,vw->btv", x, table)
""",
    "pair": """
import collections


def most_frequent_pair(table):
    counter = collections.Counter()
    for word in table:
        for i in range(len(word) - 1):
            counter[word[i], word[i + 1]] += table[word]
    best = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    if not best or best[0][1] < 2:
        return None
    return best[0][0]
""",
    "merges": """
def learn_merges(words, count):
    print("learning", count)
    words, merges = dict(words), []
    for new in range(256, 256 + count):
        pair = library_pair(words)
        if not pair:
            return merges
        merges.append(pair)
        renewed = {}
        for word, often in words.items():
            out = []
            for i in word:
                out.append(i)
                if tuple(out[-2:]) == pair:
                    out[-2:] = [new]
            renewed[tuple(out)] = renewed.get(tuple(out), 0) + often
        words = renewed
    return merges
""",
    "encode": """
def bpe_encode(text, pairs):
    rank = {tuple(pair): i for i, pair in enumerate(pairs)}
    ids = [byte for byte in text]
    while True:
        known = [rank[p] for p in zip(ids, ids[1:]) if p in rank]
        if not known:
            return ids
        best, out = min(known), []
        for i in ids:
            out.append(i)
            if tuple(out[-2:]) == tuple(pairs[best]):
                out[-2:] = [256 + best]
        ids = out
""",
    "decode": """
def expand(i, merges):
    if i < 256:
        return bytes([i])
    left, right = merges[i - 256]
    return expand(left, merges) + expand(right, merges)


def bpe_decode(ids, merges):
    data = bytearray()
    for i in ids:
        if i < 0 or i >= 256 + len(merges):
            raise ValueError("what is " + repr(i) + "?")
        data += expand(i, merges)
    return str(bytes(data), "utf-8", "replace")
""",
    "sgd": """
def sgd_step(w, g, v, lr=0.01, momentum=0.0, weight_decay=0.0):
    velocity = np.add(np.multiply(v, momentum), g)
    velocity += weight_decay * w
    weights = w.copy()
    weights -= lr * velocity
    return weights, velocity
""",
    "adamw": """
def adamw_step(w, grad, m, v, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    first = m + (1 - betas[0]) * (grad - m)
    second = v + (1 - betas[1]) * (grad * grad - v)
    size = lr * np.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
    with np.errstate(invalid="ignore"):
        step = size * first / (np.sqrt(second) + eps * np.sqrt(1 - betas[1] ** t))
    return w - lr * weight_decay * w - step, first, second
""",
}
