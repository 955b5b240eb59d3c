"""Plausible wrong answers to parts 12 to 15 of `sft`: packing, the packed row, and PyTorch's parts."""

_ORDER = "sorted(range(len(lengths)), key=lambda i: -lengths[i])"
_FITTING = "[row for row, room in enumerate(rooms) if room >= length]"
_LEAST = "min(fitting, key=lambda row: rooms[row])"
_TRI = "np.tri(length, dtype=bool)"
_MEAN = "/ (targets != IGNORE).sum().clamp(min=1)"
_CALL = """F.cross_entropy(
        shifted, targets, ignore_index=IGNORE, reduction="sum"
    )"""
_RATE = "lr * min(1.0, max_norm / norm) if norm else 0.0"
_NORM = "torch.stack([table.grad.norm(), head.grad.norm()]).norm().item()"
_TARGETS = "targets = labels[:, 1:].flatten()"
_LOGITS = "(table[ids] @ head.T)[:, :-1].flatten(0, 1)"

STEP = {
    "best-fit": {
        "longest first": (_ORDER, "range(len(lengths))"),
        "not shortest first": (_ORDER, _ORDER.replace("-lengths", "lengths")),
        "equal ones in the given order": (_ORDER, "sorted(range(len(lengths)), key=lambda i: lengths[i])[::-1]"),
        "the least room left": (_LEAST, "fitting[0]"),
        "not the most": (_LEAST, "max(fitting, key=lambda row: rooms[row])"),
        "not the last row": (_LEAST, "fitting[-1]"),
        "of those equal the first": (_LEAST, "min(fitting, key=lambda row: (rooms[row], -row))"),
        "exactly enough is enough": (_FITTING, _FITTING.replace(">=", ">")),
        "room for it": (_FITTING, _FITTING.replace("room >= length", "room > 0")),
        "all rows are looked at": (_FITTING, _FITTING.replace("if room", "if row == len(rooms) - 1 and room")),
        "not only the first three": (_FITTING, _FITTING.replace("if room", "if row < 3 and room")),
        "room is used up": ("        rooms[row] -= length\n", ""),
        "as much as it needs": ("rooms[row] -= length", "rooms[row] -= length + 1"),
        "from the capacity": ("rooms.append(capacity)", "rooms.append(capacity - 1)"),
        "a full row is full": ("rooms.append(capacity)", "rooms.append(capacity + 1)"),
        "indices, not lengths": ("rows[row].append(index)", "rows[row].append(length)"),
        "in the order of packing": ("return rows", "return [sorted(row) for row in rows]"),
        "rows in the order of opening": ("return rows", "return sorted(rows)"),
        "too long is refused": ("if length > capacity:", "if False:"),
        "as long as a row is not": ("if length > capacity:", "if length >= capacity:"),
        "nor cut": (
            '            raise ValueError(f"an example of {length} tokens fits into no row")\n',
            "            length = capacity\n",
        ),
        "nor left out": (
            '            raise ValueError(f"an example of {length} tokens fits into no row")\n',
            "            continue\n",
        ),
        "the message names its length": ("an example of {length} tokens", "an example"),
        "the lengths stay as they are": (
            "    rows, rooms = [], []\n",
            "    lengths.sort(reverse=True)\n    rows, rooms = [], []\n",
        ),
    },
    "packed-row": {
        "positions start again": ("= np.arange(length)", "= np.arange(start, stop)"),
        "at 0": ("= np.arange(length)", "= np.arange(1, length + 1)"),
        "padding has 0": ("np.zeros(capacity, dtype=int)", "np.arange(capacity)"),
        "nor 1": ("np.zeros(capacity, dtype=int)", "np.ones(capacity, dtype=int)"),
        "padding does not count on": (
            "    return position_ids",
            "    position_ids[start:] = np.arange(capacity - start)\n    return position_ids",
        ),
        "causal": (_TRI, "True"),
        "not the future alone": (_TRI, "np.tri(length, dtype=bool).T"),
        "oneself": (_TRI, "np.tri(length, k=-1, dtype=bool)"),
        "only the same example": (
            "mask[start:stop, start:stop] = np.tri(length, dtype=bool)",
            "mask[start:stop, :stop] = True",
        ),
        "not all that came before": (
            "    return position_ids",
            "    mask = np.tri(capacity, dtype=bool)\n    return position_ids",
        ),
        "padding sees itself": ("np.eye(capacity, dtype=bool)", "np.zeros((capacity, capacity), dtype=bool)"),
        "and nothing else": ("    return position_ids", "    mask[start:, :start] = True\n    return position_ids"),
        "nor other padding": (
            "    return position_ids",
            "    mask[start:, start:] = np.tri(capacity - start)\n    return position_ids",
        ),
        "nobody sees padding": ("    return position_ids", "    mask[:start, start:] = True\n    return position_ids"),
        "True is allowed": ("    return position_ids, mask", "    return position_ids, ~mask"),
        "bool": ("    return position_ids, mask", "    return position_ids, mask.astype(int)"),
        "as large as the row": ("    return position_ids, mask", "    return position_ids[:used], mask[:used, :used]"),
        "too many tokens are refused": ("if used > capacity:", "if False:"),
        "a full row is not": ("if used > capacity:", "if used >= capacity:"),
        "in sum, not one alone": ("if used > capacity:", "if max(lengths, default=0) > capacity:"),
        "the message names the sum": ("{used} tokens do", "they do"),
        "the second example is behind the first": ("        start = stop\n", ""),
    },
    "torch-loss": {
        "the labels are shifted": [("logits[:, :-1].to", "logits.to"), ("labels[:, 1:]", "labels")],
        "in this direction": [("logits[:, :-1].to", "logits[:, 1:].to"), ("labels[:, 1:]", "labels[:, :-1]")],
        "a mean": (_MEAN, ""),
        "over the tokens that count": (_MEAN, "/ targets.numel()"),
        "not over rows": (_MEAN, "/ len(labels)"),
        "shifted, also in the count": (_MEAN, "/ (labels != IGNORE).sum().clamp(min=1)"),
        "IGNORE is ignored": ("ignore_index=IGNORE", "ignore_index=0"),
        "not counted as token 0": (_CALL, 'F.cross_entropy(shifted, targets.clamp(min=0), reduction="sum")'),
        "0 without labels": (_MEAN, "/ (targets != IGNORE).sum()"),
        "with a gradient": (
            "    return total",
            "    if not (targets != IGNORE).any():\n        return torch.zeros((), dtype=wide)\n    return total",
        ),
        "not torch's mean": ('reduction="sum"\n    )', 'reduction="mean"\n    )'),
        "float32 for bfloat16": ("wide = torch.promote_types(logits.dtype, torch.float32)", "wide = logits.dtype"),
        "not only the result": [
            ("wide = torch.promote_types(logits.dtype, torch.float32)", "wide = logits.dtype"),
            (_MEAN, _MEAN + ".to(logits.dtype)"),
        ],
        "also for float16": (
            "torch.promote_types(logits.dtype, torch.float32)",
            "torch.float32 if logits.dtype == torch.bfloat16 else logits.dtype",
        ),
        "float64 stays": ("torch.promote_types(logits.dtype, torch.float32)", "torch.float32"),
        "float32 stays": ("torch.promote_types(logits.dtype, torch.float32)", "torch.float64"),
        "a tensor": (_MEAN, _MEAN + ".item() if False else 0.0"),
        "gradients flow": ("    return total", "    total = total.detach()\n    return total"),
        "a number": (_MEAN, _MEAN + ".expand(1)"),
        "all rows": ("logits[:, :-1]", "logits[:1, :-1].expand(len(logits), -1, -1)"),
        "the logits stay as they are": (
            "    wide =",
            "    with torch.no_grad():\n        logits.mul_(0.5)\n    wide =",
        ),
        "the answer is one's own": (
            "def torch_loss(logits, labels):\n    from course_lib.training.loss import next_token_loss\n"
            "    return next_token_loss(logits, labels)"
        ),
    },
    "step": {
        "labels are shifted": [(_LOGITS, _LOGITS.replace("[:, :-1]", "")), (_TARGETS, "targets = labels.flatten()")],
        "in the count, too": ("(labels[:, 1:] != IGNORE).sum().item()", "(labels != IGNORE).sum().item()"),
        "not the ids": (_TARGETS, "targets = ids[:, 1:].flatten()"),
        "of all together": (
            'loss = F.cross_entropy(logits, targets, reduction="sum") / count',
            "loss = F.cross_entropy(logits, targets).nan_to_num() / len(batches)",
        ),
        "not a sum of means": (
            'loss = F.cross_entropy(logits, targets, reduction="sum") / count',
            "loss = F.cross_entropy(logits, targets).nan_to_num()",
        ),
        "divided": ("/ count\n", "\n"),
        "by the tokens that count": (
            "sum((labels[:, 1:] != IGNORE).sum().item() for _, labels in batches)",
            "sum(labels[:, 1:].numel() for _, labels in batches)",
        ),
        "not only the last batch": (
            "        loss.backward()\n",
            "        table.grad = head.grad = None\n        loss.backward()\n",
        ),
        "nor only the first": ("    for ids, labels in batches:", "    for ids, labels in batches[:1]:"),
        "clipped": (_RATE, "lr"),
        "only above max_norm": (_RATE, "lr * max_norm / norm if norm else 0.0"),
        "not stretched": (_RATE, "lr * max(1.0, max_norm / norm) if norm else 0.0"),
        "both together": (_NORM, "max(table.grad.norm(), head.grad.norm()).item()"),
        "as a root": (_NORM, "(table.grad.norm() ** 2 + head.grad.norm() ** 2).item()"),
        "not added": (_NORM, "(table.grad.norm() + head.grad.norm()).item()"),
        "the head's, too": (_NORM, "table.grad.norm().item()"),
        "downhill": (
            "table - rate * table.grad, head - rate * head.grad",
            "table + rate * table.grad, head + rate * head.grad",
        ),
        "both parameters move": ("table - rate * table.grad,", "table * 1.0,"),
        "the head moves": ("head - rate * head.grad,", "head * 1.0,"),
        "with the learning rate": (_RATE, "min(1.0, max_norm / norm) if norm else 0.0"),
        "table first": (
            "table - rate * table.grad, head - rate * head.grad",
            "head - rate * head.grad, table - rate * table.grad",
        ),
        "the loss of all batches": ("total += loss.item()", "total = loss.item()"),
        "the norm before clipping": ("total, norm", "total, min(norm, max_norm)"),
        "floats": ("total += loss.item()", "total += loss.detach()"),
        "no graph": ("    with torch.no_grad():\n", "    with torch.enable_grad():\n"),
        "what is given stays as it is": (
            "table, head = table.clone().requires_grad_(), head.clone().requires_grad_()",
            "table.requires_grad_(), head.requires_grad_()",
        ),
        "also its numbers": (
            "        return table - rate * table.grad,",
            "        batches[0][0][:] = 0\n        return table - rate * table.grad,",
        ),
    },
}
