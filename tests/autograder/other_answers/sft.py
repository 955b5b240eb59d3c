"""Answers to `sft`, part by part, that are right in another way than the reference."""

OTHERS = {
    "render": """
def render(messages, add_generation_prompt=False):
    def one(message):
        if message["role"] not in {"system", "user", "assistant"}:
            raise ValueError(message["role"] + " is not a role")
        found = [t for t in ("<|im_end|>", "<|im_start|>") if message["content"].count(t)]
        if found:
            raise ValueError("forbidden: " + found[0])
        return "<|im_start|>%s\\n%s<|im_end|>\\n" % (message["role"], message["content"])

    lines = [one(m) for m in messages]
    if add_generation_prompt:
        lines.append("<|im_start|>assistant\\n")
    return "".join(lines)
""",
    "assistant-spans": """
def assistant_spans(ids, header, end):
    out, start, k = [], None, len(header)
    i = 0
    while i < len(ids):
        if start is None and ids[i : i + k] == header:
            start = i + k
            i = start
        else:
            if start is not None and ids[i] == end:
                out.append((start, i + 1))
                start = None
            i += 1
    if start is not None and start < len(ids):
        out.append((start, len(ids)))
    return out
""",
    "labels": """
def labels_of(ids, spans, last_only=False):
    if last_only:
        spans = spans[len(spans) - 1 :] if spans else []
    learnt = set()
    for a, b in spans:
        learnt |= set(range(a, b))
    if not learnt:
        raise ValueError("there is no label here")
    return [i if t in learnt else -100 for t, i in enumerate(ids)]
""",
    "fit": """
def fit(prompt, response, max_length):
    if not max_length >= 2:
        raise ValueError(f"{max_length} is too short")
    prompt, response = list(prompt), list(response)
    while len(prompt) > 1 and len(prompt) + len(response) > max_length:
        prompt.pop(0)
    while len(prompt) + len(response) > max_length:
        response.pop()
    return prompt + response, [IGNORE for _ in prompt] + response
""",
    "end-token": """
def with_end(response, end):
    new = list(response)
    while new[-1:] == [end]:
        new.pop()
    new.append(end)
    return new


def until_end(generated, ends):
    places = [generated.index(e) for e in ends if e in generated]
    if places:
        return generated[: min(places)], True
    return list(generated), False
""",
    "collate": """
def collate(examples, pad_id):
    n = max(map(len, (ids for ids, _ in examples)))
    a = np.array([ids + [pad_id] * (n - len(ids)) for ids, _ in examples])
    b = np.array([labels + [-100] * (n - len(labels)) for _, labels in examples])
    sizes = np.array([len(ids) for ids, _ in examples])
    return a, b, (np.arange(n) < sizes[:, None]).astype(np.int32)
""",
    "targets": """
def targets_of(labels, position_ids=None):
    rows = []
    for b in range(len(labels)):
        row = [int(x) for x in labels[b][1:]] + [IGNORE]
        if position_ids is not None:
            for t in range(len(row) - 1):
                if position_ids[b][t + 1] == 0:
                    row[t] = IGNORE
        rows.append(row)
    return np.array(rows)
""",
    "token-losses": """
def token_losses(logits, targets):
    real = (targets != IGNORE)[..., None]
    z = np.where(real, logits, 0.0)
    lse = np.logaddexp.reduce(z, axis=-1)
    picked = np.take_along_axis(z, np.where(targets == IGNORE, 0, targets)[..., None], axis=-1)
    return (lse - picked[..., 0]) * real[..., 0]
""",
    "two-means": """
def two_means(losses, targets):
    total, n, means = 0.0, 0, []
    for row, said in zip(losses, targets):
        mine = [x for x, t in zip(row, said) if t != -100]
        total += sum(mine)
        n += len(mine)
        if mine:
            means.append(sum(mine) / len(mine))
    if n == 0:
        raise ValueError("no label")
    return total / n, np.mean(means)
""",
    "gradient": """
def loss_gradient(logits, targets):
    out = np.zeros_like(logits)
    places = [p for p in np.ndindex(targets.shape) if targets[p] != IGNORE]
    for p in places:
        z = logits[p]
        out[p] = np.exp(z - np.logaddexp.reduce(z)) / len(places)
        out[p][targets[p]] -= 1 / len(places)
    return out
""",
    "accumulated": """
def accumulated(gradients, counts):
    n = np.array(counts)
    if (n == 0).all():
        raise ValueError("there is no label in any piece")
    kept = np.stack([g for g, c in zip(gradients, counts) if c])
    return np.average(kept, axis=0, weights=n[n > 0])
""",
    "best-fit": """
def best_fit(lengths, capacity):
    for n in lengths:
        if n > capacity:
            raise ValueError(f"{n} > {capacity}")
    rows = []
    for i in np.argsort([-n for n in lengths], kind="stable"):
        best = None
        for row in rows:
            used = sum(lengths[j] for j in row)
            if used + lengths[i] <= capacity and (best is None or used > sum(lengths[j] for j in best)):
                best = row
        if best is None:
            best = []
            rows.append(best)
        best.append(int(i))
    return rows
""",
    "packed-row": """
def packed_row(lengths, capacity):
    left = capacity - sum(lengths)
    if left < 0:
        raise ValueError(str(sum(lengths)) + " tokens are too many")
    lengths = [*lengths, *[1] * left]
    owner = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.concatenate([np.arange(n) for n in lengths])
    order = np.arange(capacity)
    return positions, (owner[:, None] == owner) & (order[:, None] >= order)
""",
    "torch-loss": """
def torch_loss(logits, labels):
    z = logits[:, :-1]
    if z.dtype in (torch.bfloat16, torch.float16):
        z = z.float()
    t = labels[:, 1:]
    keep = t != -100
    if not keep.any():
        return (z * 0).sum() if z.numel() else logits.sum() * 0
    log_p = z[keep].log_softmax(-1)
    return -log_p.gather(1, t[keep][:, None]).mean()
""",
    "step": """
def sft_step(table, head, batches, lr, max_norm):
    T, H = table.detach().clone(), head.detach().clone()
    T.requires_grad, H.requires_grad = True, True
    sums, n = [], 0
    for ids, labels in batches:
        for x, y in zip(ids, labels):
            keep = y[1:] != IGNORE
            z = T[x[:-1]][keep] @ H.T
            sums.append((torch.logsumexp(z, 1) - z.gather(1, y[1:][keep][:, None])[:, 0]).sum())
            n += int(keep.sum())
    loss = sum(sums) / n
    gT, gH = torch.autograd.grad(loss, [T, H])
    norm = float(((gT**2).sum() + (gH**2).sum()) ** 0.5)
    if norm > max_norm:
        gT, gH = gT * (max_norm / norm), gH * (max_norm / norm)
    return T.detach() - lr * gT, H.detach() - lr * gH, float(loss), norm
""",
}
