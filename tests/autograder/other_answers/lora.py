"""Right answers to `lora` that differ from the reference: other ways, other names. See `test_other_answers`."""

OTHERS = {
    "init": """
class LoRALinear:
    def __init__(self, W, rank=4, alpha=1.0, seed=0):
        import math

        d_out, d_in = W.shape
        if rank < 1 or rank > d_out or rank > d_in:
            raise ValueError("impossible rank: " + str(rank))
        print("a layer of rank", rank)
        rng = np.random.default_rng(seed)
        self.A = (2 * rng.random((rank, d_in)) - 1) / math.sqrt(d_in)
        self.B = 0 * np.ones((d_out, rank))
        self.rank, self.scaling = rank, alpha / rank
        self.original_weight = W

    def __repr__(self):
        return "a LoRALinear"
""",
    "forward": """
def low_rank(self, x):
    return np.dot(np.dot(x, self.A.T), self.B.T)


def forward(self, inputs):
    return np.dot(inputs, self.original_weight.T) + low_rank(self, inputs) * self.scaling
""",
    "merged-weight": """
def merged_weight(layer):
    total = np.array(layer.original_weight)
    for r in range(len(layer.A)):
        total += layer.scaling * np.outer(layer.B[:, r], layer.A[r])
    return total
""",
    "lora-parameters": """
def lora_parameters(self):
    found = []
    for name in "AB":
        found.append(getattr(self, name))
    return found
""",
    "backward": """
def backward(self, x, g):
    x, g = x.reshape(-1, self.A.shape[1]), g.reshape(-1, self.B.shape[0])
    down = x @ self.A.T
    grad_B = np.einsum("no,nr->or", g, down) * self.scaling
    grad_A = np.einsum("no,or,ni->ri", g, self.B, x) * self.scaling
    return (grad_A, grad_B)
""",
    "trainable-percentage": """
def trainable_percentage(shapes, r, total):
    count = 0
    for shape in shapes:
        count += r * sum(shape)
    return count / total * 100.0
""",
    "inject-lora": """
def inject_lora(self):
    def last(name):
        return name.rsplit(".", 1)[-1]

    modules = dict(self.base_model.named_modules())
    if len(self.layers) > 0:
        raise ValueError("twice")
    names = [name for name in modules if type(modules[name]) is scratch.Linear]
    for target in self.target_modules:
        if target not in map(last, names):
            raise ValueError(f"{target} is not there")
    for tensor in self.base_model.parameters():
        tensor.requires_grad = False
    chosen = [name for name in names if last(name) in self.target_modules]
    for number in range(len(chosen)):
        name = chosen[number]
        old = modules[name]
        new = scratch.LoRALinear(old.weight, self.rank, self.alpha, number, old.bias)
        setattr(modules[name[: -len(last(name)) - 1] if "." in name else ""], last(name), new)
        self.layers[name] = new
""",
    "base-parameters": """
def base_parameters(self):
    ours, result = self.lora_parameters(), []
    for tensor in self.base_model.parameters():
        if not any(tensor is other for other in ours):
            result.append(tensor)
    return result
""",
    "model-percentage": """
def model_percentage(self):
    count = lambda tensors: float(sum(np.prod(t.data.shape) for t in tensors))
    a, b = count(self.lora_parameters()), count(self.base_parameters())
    return a / (a + b) * 100
""",
    "torch-init": """
class TorchLoRALinear(torch.nn.Module):
    def __init__(self, layer, r, alpha=1.0):
        d_out, d_in = layer.weight.shape
        if r not in range(1, min(d_in, d_out) + 1):
            raise ValueError(f"no layer of rank {r}")
        super().__init__()
        for parameter in layer.parameters():
            parameter.requires_grad = False
        like = {"dtype": layer.weight.dtype, "device": layer.weight.device}
        self.base = layer
        self.B = nn.Parameter(torch.zeros(d_out, r, **like))
        A = torch.empty(r, d_in, **like)
        nn.init.kaiming_uniform_(A, a=5**0.5)
        self.A = nn.Parameter(A)
        self.scaling = alpha / r
""",
    "torch-forward": """
def torch_forward(self, x):
    down = nn.functional.linear(x, self.A)
    return self.base(x).add(nn.functional.linear(down, self.B), alpha=self.scaling)
""",
    "torch-inject-lora": """
def sides(layer):
    return (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)


def torch_inject_lora(model, targets, rank, alpha):
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) or isinstance(m, Conv1D)]
    meant = {t: [n for n, _ in layers if n == t or n.endswith("." + t)] for t in targets}
    for target, names in meant.items():
        if len(names) == 0:
            raise ValueError(f"{target}?")
    chosen = [(n, m) for n, m in layers if any(n in names for names in meant.values())]
    for name, layer in chosen:
        if rank < 1 or rank > min(sides(layer)):
            raise ValueError(f"{rank} is too much or too little for {name}")
    for parameter in model.parameters():
        parameter.requires_grad = False
    for name, layer in chosen:
        *path, last = name.split(".")
        parent = model.get_submodule(".".join(path))
        parent._modules[last] = adapters.LoRALinear(layer, rank=rank, alpha=alpha)
    return [name for name, _ in chosen]
""",
}
