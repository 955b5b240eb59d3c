"""Right answers to `merging` that differ from the reference: other ways, other names. See `test_other_answers`."""

OTHERS = {
    "layers-in": """
def layers_in(self, model, wanted):
    found = []
    for name in model.layers:
        found.append(model.layers[name])
    if len(found) == 0:
        raise ValueError("nothing to do: inject_lora comes first")
    for layer in found:
        if bool(layer.merged) is not bool(wanted):
            raise ValueError(("not merged" if wanted else "merged already") + ", so stop")
    return found
""",
    "merge": """
def merge(self, lora_model):
    layers = self.layers_in(lora_model, False)
    print("merging", len(layers), "layers")
    for layer in layers:
        old = layer.weight.data
        new = old.astype(np.float64)
        for r in range(len(layer.A.data)):
            new += layer.scaling * np.outer(layer.B.data[:, r], layer.A.data[r])
        setattr(layer, "unmerged", old)
        layer.weight.data, layer.merged = np.float32(new), True
""",
    "unmerge": """
def unmerge(self, model):
    for layer in list(self.layers_in(model, merged=True)):
        layer.weight.data = vars(layer).pop("unmerged")
        layer.merged = False
""",
    "swap": """
def swap_adapter(model, adapter):
    new = {}
    for name, layer in model.layers.items():
        if layer.merged is True:
            raise ValueError(f"please unmerge {name}")
        new[f"{name}.A"], new[f"{name}.B"] = layer.A, layer.B
    strange = set(adapter) ^ set(new)
    if strange:
        raise ValueError("only one side has " + ", ".join(sorted(strange)))
    for name in new:
        if new[name].data.shape != adapter[name].shape:
            raise ValueError(f"{name} has another shape")
    for name in new:
        new[name].data = adapter[name].astype("float32", copy=True)
""",
    "concatenate": """
def concatenate(adapters, weights):
    if len(adapters) < 1:
        raise ValueError("nothing")
    if len(weights) != len(adapters):
        raise ValueError("one weight for each")
    first_A, first_B, _ = adapters[0]
    for A, B, _ in adapters:
        if A.shape[1] != first_A.shape[1] or len(B) != len(first_B):
            raise ValueError("other shapes")
    A = np.vstack([A for A, _, _ in adapters])
    B = np.hstack([B * (scaling * w) for (_, B, scaling), w in zip(adapters, weights)])
    return (A, B)
""",
    "combine-linear": """
def combine_linear(adapters, weights):
    ranks = {len(A) for A, B, s in adapters}
    if len(ranks) != 1:
        raise ValueError(f"the ranks differ: {sorted(ranks)}")
    total_A, total_B = 0.0, 0.0
    for (A, B, s), w in zip(adapters, weights):
        root = abs(w * s) ** 0.5
        total_A = total_A + (A * root if w * s >= 0 else -A * root)
        total_B = total_B + B * root
    return total_A, total_B
""",
    "benchmark-evaluate": """
def evaluate(self):
    losses, hits = [], []
    for i in range(len(self.eval_dataset)):
        ids, labels = self.eval_dataset[i]["input_ids"], self.eval_dataset[i]["labels"]
        with no_grad():
            scores = self.model(np.array(ids)[None, :]).data[0].astype(float)
        for t in range(len(ids) - 1):
            if labels[t + 1] != IGNORE:
                losses.append(np.logaddexp.reduce(scores[t]) - scores[t][labels[t + 1]])
                hits.append(float(np.argmax(scores[t]) == labels[t + 1]))
    loss = sum(losses) / len(losses)
    return dict(accuracy=sum(hits) / len(hits), loss=float(loss), perplexity=float(np.exp(loss)), tokens=len(hits))
""",
    "benchmark-compare": """
def compare(self, models):
    def one(model):
        row = dict(Benchmark(model, eval_dataset=self.eval_dataset).evaluate())
        sizes = [(int(t.size), t.requires_grad) for t in model.parameters()]
        row["total_params"] = sum(size for size, _ in sizes)
        row["trainable_params"] = sum(size for size, trained in sizes if trained)
        return row

    return {name: one(models[name]) for name in models}
""",
    "write-adapter": """
def write_adapter(where, layers, alpha):
    import os

    os.makedirs(where, exist_ok=True)
    names, tensors = list(layers), dict()
    for name in names:
        A, B = layers[name]
        prefix = "base_model.model." + name
        tensors[prefix + ".lora_A.weight"] = torch.clone(A.data, memory_format=torch.contiguous_format)
        tensors[prefix + ".lora_B.weight"] = torch.clone(B.data, memory_format=torch.contiguous_format)
    save_file(tensors, os.path.join(where, "adapter_model.safetensors"))
    rank = layers[names[0]][0].shape[0]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=names)
    with open(os.path.join(where, "adapter_config.json"), "w") as file:
        settings = {key: value for key, value in config.to_dict().items() if isinstance(value, (str, int, float))}
        json.dump(settings | {"peft_type": "LORA", "target_modules": sorted(names)}, file)
""",
    "read-adapter": """
def read_adapter(folder):
    with open(f"{folder}/adapter_config.json") as file:
        config = json.load(file)
    for key in ["use_dora", "rank_pattern", "alpha_pattern"]:
        if config.get(key) not in (None, False, {}, []):
            raise ValueError(f"{key}: {config[key]}")
    r = config["r"]
    scaling = config["lora_alpha"] / (r**0.5 if config.get("use_rslora", False) else r)
    found = load_file(f"{folder}/adapter_model.safetensors")
    names = sorted({key.split(".lora_")[0][len("base_model.model.") :] for key in found})
    layers = {}
    for name in names:
        A, B = (found[f"base_model.model.{name}.lora_{which}.weight"] for which in "AB")
        layers[name] = (A, B, scaling)
    return layers
""",
    "merged-into": """
class Merged:
    def __init__(self, linear, A, B, scaling):
        self.linear, self.old = linear, linear.weight.data
        exact = self.old.to(torch.float32) + (B.detach() @ A.detach()) * scaling
        self.new = exact.to(self.old.dtype)
        off = torch.abs(self.new.to(torch.float32) - exact)
        self.report = {
            "max_error": float(off.max()),
            "mean_error": float(off.mean()),
            "unmoved": float((self.new == self.old).double().mean()),
            "entries": off.numel(),
        }

    def __enter__(self):
        self.linear.weight.data = self.new
        return self.report

    def __exit__(self, *_):
        self.linear.weight.data = self.old


def merged_into(linear, A, B, scaling):
    return Merged(linear, A, B, scaling)
""",
}
