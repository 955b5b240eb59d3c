"""Plausible wrong answers to `merging`: one for each requirement that its text states. See `test_wrong_answers`."""

_EACH = "    for layer in self.layers_in(lora_model, False):\n"
_CHANGE = "layer.scaling * layer.B.data @ layer.A.data"
_MERGED = (
    "    if any(layer.merged for layer in lora_model.layers.values()):\n"
    '        raise ValueError("an adapter is merged: unmerge it first")\n'
)
_BACK = "layer.weight.data, layer.merged = layer.unmerged, False"

ONE_ADAPTER = {
    "layers-in": {
        "no layers are refused": ("    if not layers:", "    if False:"),
        "the message says what comes first": ("call inject_lora first", "there is nothing to merge"),
        "every layer must be in the state": ("any(layer.merged != merged", "all(layer.merged != merged"),
        "also the last": ("for layer in layers):", "for layer in layers[:1]):"),
        "also when merged ones are wanted": ("layer.merged != merged", "layer.merged and not merged"),
        "also when unmerged ones are": ("layer.merged != merged", "merged and not layer.merged"),
        "the message says which": (
            '            "this model is not merged"\n            if merged\n'
            '            else "this model is merged already"',
            '            "this model is merged already"',
        ),
        "a list": ("    return layers", "    return tuple(layers)"),
        "of layers, not of names": ("    return layers", "    return list(lora_model.layers)"),
        "all of them": ("    return layers", "    return layers[:2]"),
        "in order": ("    return layers", "    return layers[::-1]"),
        "no layer changes": (
            "    return layers",
            "    for layer in layers:\n        layer.merged = not merged\n    return layers",
        ),
    },
    "merge": {
        "layers_in is asked": (_EACH, "    for layer in lora_model.layers.values():\n"),
        "for the unmerged ones": ("layers_in(lora_model, False)", "layers_in(lora_model, True)"),
        "before anything changes": (_EACH, "    next(iter(lora_model.layers.values())).merged = True\n" + _EACH),
        "the change is scaled": (_CHANGE, "layer.B.data @ layer.A.data"),
        "and added": ("layer.unmerged + change", "change"),
        "the original is kept": (
            "        layer.unmerged = layer.weight.data\n        layer.weight.data = (layer.unmerged + change)",
            "        layer.weight.data = (layer.weight.data + change)",
        ),
        "and is the original": (
            "        layer.unmerged = layer.weight.data\n"
            "        layer.weight.data = (layer.unmerged + change).astype(np.float32)",
            "        layer.weight.data = (layer.weight.data + change).astype(np.float32)\n"
            "        layer.unmerged = layer.weight.data",
        ),
        "it is not written to": (
            "        layer.weight.data = (layer.unmerged + change).astype(np.float32)",
            "        layer.unmerged = layer.weight.data.copy()\n        layer.weight.data += change.astype(np.float32)",
        ),
        "float32": (".astype(np.float32)", ".astype(np.float64)"),
        "the layer says so": ("\n        layer.merged = True", ""),
        "A and B stay": (
            "        layer.merged = True",
            "        layer.B.data = np.zeros_like(layer.B.data)\n        layer.merged = True",
        ),
        "every layer": ("        layer.merged = True", "        layer.merged = True\n        break"),
    },
    "unmerge": {
        "layers_in is asked": ("self.layers_in(lora_model, True)", "lora_model.layers.values()"),
        "for the merged ones": ("layers_in(lora_model, True)", "layers_in(lora_model, False)"),
        "to the bit": (
            _BACK,
            "layer.weight.data = (layer.weight.data - layer.scaling * layer.B.data @ layer.A.data).astype(np.float32)\n"
            "        layer.merged = False",
        ),
        "the layer says so": (_BACK, "layer.weight.data = layer.unmerged"),
        "the copy is deleted": ("        del layer.unmerged", "        pass"),
        "and not set to None": ("        del layer.unmerged", "        layer.unmerged = None"),
        "every layer": ("        del layer.unmerged", "        del layer.unmerged\n        break"),
        "float32": (_BACK, "layer.weight.data, layer.merged = layer.unmerged.astype(float), False"),
    },
    "swap": {
        "copies": ("np.array(adapter[name], dtype=np.float32)", "np.asarray(adapter[name], dtype=np.float32)"),
        "as float32": (", dtype=np.float32)", ")"),
        "into the Tensors that are there": (
            "    for name, tensor in own.items():\n        tensor.data = np.array(adapter[name], dtype=np.float32)",
            "    for name, layer in lora_model.layers.items():\n        for which in 'AB':\n"
            "            setattr(layer, which, Tensor(np.array(adapter[f'{name}.{which}'], dtype=np.float32),"
            " requires_grad=True))",
        ),
        "A and B": ('        for which in "AB"', '        for which in "A"'),
        "each in its place": (
            'for which in "AB"\n    }',
            'for which in "AB"\n    }\n'
            '    adapter = {n: adapter.get(n[:-1] + {"A": "B", "B": "A"}[n[-1]], a).T if n[-1] in "AB" and n '
            "in own else a for n, a in adapter.items()}",
        ),
        "a name too many is refused": ("own.keys() | adapter.keys()", "own.keys()"),
        "a name too few is refused": ("own.keys() | adapter.keys()", "adapter.keys()"),
        "another shape is refused": (
            "            np.shape(side[name]) if name in side",
            "            True if name in side",
        ),
        "with the name": ("{name} is {theirs} there", "it is {theirs} there"),
        "by a ValueError": (
            'raise ValueError(\n                f"the adapter',
            'raise KeyError(\n                f"the adapter',
        ),
        "before anything changes": (
            "        if ours != theirs:",
            "        if ours == theirs:\n"
            "            own[name].data = np.array(adapter[name], dtype=np.float32)\n        else:",
        ),
        "a merged model is refused": (_MERGED, ""),
        "where one layer is merged, too": (
            "if any(layer.merged for layer in lora_model.layers.values())",
            "if all(layer.merged for layer in lora_model.layers.values())",
        ),
        "wherever it is": ("in lora_model.layers.values()):", "in list(lora_model.layers.values())[:1]):"),
        "with what to do": ("unmerge it first", "take it out first"),
    },
}

SEVERAL = {
    "concatenate": {
        "weights count": ("w * scaling * A", "scaling * A"),
        "scalings count": ("w * scaling * A", "w * A"),
        "factors are in one of them": (
            "[B for _, B, _ in adapters]",
            "[w * B for w, (_, B, _) in zip(weights, adapters)]",
        ),
        "the A are stacked": ("axis=0\n", "axis=1\n"),
        "the B stand side by side": ("adapters], axis=1)", "adapters], axis=0)"),
        "in the same order": ("[B for _, B, _ in adapters]", "[B for _, B, _ in adapters[::-1]]"),
        "no adapter is refused": (
            "    if not adapters or",
            "    if not adapters:\n        return np.zeros((0, 0)), np.zeros((0, 0))\n    if",
        ),
        "too many weights are refused": ("len(adapters) != len(weights)", "len(adapters) > len(weights)"),
        "too few weights are refused": ("len(adapters) != len(weights)", "len(adapters) < len(weights)"),
        "other outputs are refused": [
            ("(B.shape[0], A.shape[1])", "A.shape[1]"),
            (
                "[B for _, B, _ in adapters]",
                "[np.broadcast_to(B, (max(b.shape[0] for _, b, _ in adapters), B.shape[1])) if B.shape[0] == 1 else "
                "np.resize(B, (adapters[0][1].shape[0], B.shape[1])) for _, B, _ in adapters]",
            ),
        ],
        "other ranks are not": ("(B.shape[0], A.shape[1])", "(B.shape, A.shape)"),
        "by a ValueError": ("raise ValueError", "raise IndexError"),
        "the adapters stay": (
            "    A = np.concatenate(",
            "    for w, (A, _, scaling) in zip(weights, adapters):\n        A *= w * scaling\n"
            "    weights = [1.0] * len(weights)\n"
            "    adapters = [(A, B, 1.0) for A, B, _ in adapters]\n    A = np.concatenate(",
        ),
        "A comes first": ("return A, B", "return B, A"),
        "arrays": ("return A, B", "return A.tolist(), B.tolist()"),
    },
    "combine-linear": {
        "the factor is shared out": ("np.sign(c) * np.sqrt(abs(c)) * A", "c * A"),
        "to both sides": ("np.sqrt(abs(c)) * B for", "B for"),
        "evenly": ("sum(np.sqrt(abs(c)) * B for", "sum(abs(c) * B for"),
        "scalings count": ("[w * scaling for", "[w for"),
        "weights count": ("[w * scaling for", "[scaling for"),
        "a negative sign goes to A": ("np.sign(c) * np.sqrt(abs(c)) * A", "np.sqrt(abs(c)) * A"),
        "and to A alone": ("sum(np.sqrt(abs(c)) * B for", "sum(np.sign(c) * np.sqrt(abs(c)) * B for"),
        "other ranks are refused": ("    if len(set(ranks)) > 1:", "    if False:"),
        "wherever they are": (
            "    if len(set(ranks)) > 1:",
            "    if ranks[0] != ranks[1:2] and len(set(ranks[:2])) > 1:",
        ),
        "with the ranks": ("adapters of ranks {ranks} cannot", "adapters of unequal ranks cannot"),
        "by a ValueError": ("raise ValueError", "raise TypeError"),
        "all of them": ("zip(weights, adapters)]", "zip(weights[:2], adapters[:2])]"),
        "not concatenated": (
            "    A = sum(",
            "    return np.concatenate([c * A for c, (A, _, _) in zip(factors, adapters)]), np.concatenate([B "
            "for _, B, _ in adapters], axis=1)\n    A = sum(",
        ),
    },
}

BENCHMARK = {
    "benchmark-evaluate": {
        "all labels together": (
            "total -= log_p[np.arange(len(labels)), labels].sum()",
            "total -= log_p[np.arange(len(labels)), labels].mean() * 3",
        ),
        "not the examples' means": [
            ("labels].sum()", "labels].mean()"),
            ("count += len(labels)", "count += 1"),
            (
                "right += int((logits.argmax(axis=1) == labels).sum())",
                "right += float((logits.argmax(axis=1) == labels).mean())",
            ),
        ],
        "masked labels do not count": (
            "logits, labels = logits[labels != IGNORE], labels[labels != IGNORE]",
            "labels = np.where(labels == IGNORE, 0, labels)",
        ),
        "a position predicts the next label": ('np.array(example["labels"])[1:]', 'np.array(example["labels"])[:-1]'),
        "the last one nothing": (".data[0, :-1]", ".data[0, 1:]"),
        "perplexity is e to the loss": ("math.exp(loss)", "2**loss"),
        "accuracy is of the same labels": (
            "right / count",
            "right / sum(len(self.eval_dataset[i]['labels']) - 1 for i in range(len(self.eval_dataset)))",
        ),
        "a share": ("right / count", "100 * right / count"),
        "of the likeliest tokens": (
            "logits.argmax(axis=1) == labels",
            "log_p[np.arange(len(labels)), labels] > np.log(0.2)",
        ),
        "every example": ("range(len(self.eval_dataset))", "range(len(self.eval_dataset) - 1)"),
        "nothing is remembered": ("with no_grad():", "if True:"),
        "nothing changes": (
            "    loss = float",
            "    for p in self.model.parameters():\n        p.grad = None\n    loss = float",
        ),
        "three figures": (', "accuracy": right / count', ""),
        "floats": ("loss = float(total / count)", "loss = np.array(total / count)"),
        "the mean": ("float(total / count)", "float(total)"),
    },
    "benchmark-compare": {
        "by the same names": ("results[name] =", "results[name.upper()] ="),
        "every model": ("    return results", "    return dict(list(results.items())[:1])"),
        "what evaluate says": ("Benchmark(model, self.eval_dataset).evaluate() | {", "{"),
        "of each model": (
            "Benchmark(model, self.eval_dataset)",
            "Benchmark(list(models.values())[0], self.eval_dataset)",
        ),
        "on these examples": ("Benchmark(model, self.eval_dataset)", "Benchmark(model, self.eval_dataset[:2])"),
        "numbers, not tensors": ("sum(p.size for p in model.parameters()),", "len(model.parameters()),"),
        "those that are trained": (
            "p.size for p in model.parameters() if p.requires_grad",
            "p.size for p in model.parameters()",
        ),
        "and only these": (" if p.requires_grad", " if not p.requires_grad"),
        "all are all": (
            '"total_params": sum(p.size for p in model.parameters()),',
            '"total_params": sum(p.size for p in model.parameters() if not p.requires_grad),',
        ),
        "the benchmark stays": (
            "        results[name] = Benchmark(model, self.eval_dataset).evaluate()",
            "        self.model = model\n        results[name] = self.evaluate()",
        ),
        "in the given order": ("models.items()", "sorted(models.items())"),
    },
}

PYTORCH = {
    "write-adapter": {
        "the prefix": ('f"base_model.model.{name}', 'f"{name}'),
        "no adapter's name": ("lora_{letter}.weight", "lora_{letter}.default.weight"),
        "A and B": ('zip("AB", pair)', 'zip("BA", pair)'),
        "as they are": ("matrix.detach().clone().contiguous()", "matrix.detach().clone().T.contiguous()"),
        "contiguous": (".clone().contiguous()", ""),
        "not shared": ("matrix.detach().clone().contiguous()", "matrix.detach().contiguous()"),
        "the rank": ('"r": rank', '"r": 8'),
        "alpha": ('"lora_alpha": alpha', '"lora_alpha": alpha / rank'),
        "full names as targets": ("list(layers)", "sorted({name.split('.')[-1] for name in layers})"),
        "the type": ('        "peft_type": "LORA",\n', ""),
        "the folder is made": ("folder.mkdir(parents=True, exist_ok=True)", "pass"),
        "with those above it": ("folder.mkdir(parents=True, exist_ok=True)", "folder.mkdir(exist_ok=True)"),
        "or is there": ("folder.mkdir(parents=True, exist_ok=True)", "folder.mkdir(parents=True)"),
        "a text is a folder, too": ("folder = Path(folder)", "folder = folder"),
        "the file's name": ("adapter_model.safetensors", "model.safetensors"),
        "two files": ("    rank = ", "    (folder / 'README.md').write_text('an adapter')\n    rank = "),
    },
    "read-adapter": {
        "the base's names": ('key.removeprefix("base_model.model.")', "key"),
        "alpha over r": ('scaling = config["lora_alpha"] / divisor', 'scaling = config["lora_alpha"]'),
        "over its root with use_rslora": (
            'config["r"] ** 0.5 if config.get("use_rslora") else config["r"]',
            'config["r"]',
        ),
        "a missing entry is False": ('config.get("use_rslora")', 'config["use_rslora"]'),
        "rank_pattern is refused": ('"rank_pattern", ', ""),
        "alpha_pattern is refused": ('"alpha_pattern", ', ""),
        "use_dora is refused": (', "use_dora")', ")"),
        "by name": ("{folder} has {entry}, which", "{folder} has something which"),
        "an empty one is not refused": ("        if config.get(entry):", "        if entry in config:"),
        "by a ValueError": ("raise ValueError", "raise NotImplementedError"),
        "the layers that are there": (
            "        if end:",
            "        if end and name.split('.')[-1] in config['target_modules']:",
        ),
        "A first": (
            '(A, tensors[key.replace(end, ".lora_B.")], scaling)',
            '(tensors[key.replace(end, ".lora_B.")], A, scaling)',
        ),
        "a text is a folder, too": ("    folder = Path(folder)\n", ""),
    },
    "merged-into": {
        "merged in float32": (
            "original.float() + scaling * (B @ A)",
            "(original + (scaling * (B @ A)).to(original.dtype)).float()",
        ),
        "rounded once": (
            "exact = original.float() + scaling * (B @ A)",
            "exact = original.float() + (scaling * (B @ A)).to(original.dtype).float()",
        ),
        "to the weight's dtype": ("merged = exact.to(original.dtype)", "merged = exact"),
        "the change is scaled": ("scaling * (B @ A)", "B @ A"),
        "the error is that of rounding": (
            "(merged.float() - exact).abs()",
            "(merged.float() - original.float()).abs()",
        ),
        "its largest": ('"max_error": error.max().item()', '"max_error": error.median().item()'),
        "and its mean": ("error.mean()", "error.median()"),
        "without its sign": ("(merged.float() - exact).abs()", "merged.float() - exact"),
        "the share that stays": ("(merged == original)", "(merged != original)"),
        "a share, not a number": ("(merged == original).float().mean()", "(merged == original).float().sum()"),
        "floats": ("error.max().item()", "error.max()"),
        "the same parameter": ("    linear.weight.data = merged", "    linear.weight = nn.Parameter(merged)"),
        "the old tensor is not written to": (
            "    linear.weight.data = merged",
            "    kept = original.clone()\n    original.copy_(merged)\n    original = kept",
        ),
        "it comes back": ("        linear.weight.data = original", "        pass"),
        "to the bit": (
            "        linear.weight.data = original",
            "        linear.weight.data = (merged.float() - scaling * (B @ A).detach()).to(merged.dtype)",
        ),
        "after an exception, too": (
            "    try:\n        yield report\n    finally:\n        linear.weight.data = original",
            "    yield report\n    linear.weight.data = original",
        ),
        "the block may train": (
            "    linear.weight.data = merged\n    try:\n        yield report\n    finally:\n"
            "        linear.weight.data = original",
            "    linear.weight.data = merged\n    with torch.no_grad():\n        try:\n"
            "            yield report\n        finally:\n            linear.weight.data = original",
        ),
        "what is frozen stays frozen": (
            "    linear.weight.data = merged",
            "    linear.weight.requires_grad_(True)\n    linear.weight.data = merged",
        ),
        "blocks within blocks": (
            "    original = linear.weight.data",
            "    original = linear.__dict__.setdefault('kept', linear.weight.data)",
        ),
        "a report of three": ('            "unmoved": (merged == original).float().mean().item(),\n', ""),
    },
}

WRONG = ONE_ADAPTER | SEVERAL | BENCHMARK | PYTORCH
