"""Plausible wrong answers to `lora`: one for each requirement that its text states. See `test_wrong_answers`."""

_LIMIT = "min(out_features, in_features)"
_FORWARD = "return x @ self.original_weight.T + self.scaling * (x @ self.A.T) @ self.B.T"
_BACKWARD = "x = x.reshape(-1, x.shape[-1])"
_TARGET = 'name.split(".")[-1] in self.target_modules'

WRONG = {
    "init": {
        "a rank of 0 is refused": ("if not 1 <= rank <=", "if not rank <="),
        "the largest rank is possible": ("1 <= rank <= min", "1 <= rank < min"),
        "a rank above the number of outputs is refused": (f"rank <= {_LIMIT}:", "rank <= in_features:"),
        "a rank above the number of inputs is refused": (f"rank <= {_LIMIT}:", "rank <= out_features:"),
        "the limit is the smaller side": (f"rank <= {_LIMIT}:", "rank <= max(out_features, in_features):"),
        "scaling is divided by the rank": ("alpha / rank", "alpha"),
        "scaling is not rank-stabilised": ("alpha / rank", "alpha / rank**0.5"),
        "the bound is a root": ("1 / np.sqrt(in_features)", "1 / in_features"),
        "the bound is that of the inputs": ("1 / np.sqrt(in_features)", "1 / np.sqrt(out_features)"),
        "A is drawn on both sides of zero": ("-bound, bound,", "0, bound,"),
        "A is uniform": ("uniform(\n            -bound, bound, (rank", "normal(\n            0, bound / 3, (rank"),
        "A follows from the seed": ("default_rng(seed)", "default_rng(0)"),
        "A is not another one at every call": ("default_rng(seed)", "default_rng()"),
        "the program's random numbers stay": (
            "np.random.default_rng(seed).uniform",
            "(np.random.seed(seed) or np.random).uniform",
        ),
        "B starts at zero": ("np.zeros((out_features, rank))", "np.ones((out_features, rank))"),
        "A has a row for each rank": ("(rank, in_features)", "(in_features, rank)"),
        "B has a row for each output": ("np.zeros((out_features, rank))", "np.zeros((rank, out_features))"),
        "the weight is stored as it is": ("= original_weight\n", "= original_weight * 0\n"),
    },
    "forward": {
        "the change is scaled": ("self.scaling * ", ""),
        "the product B A is not formed": (
            _FORWARD,
            "return x @ (self.original_weight + self.scaling * self.B @ self.A).T",
        ),
        "nor in another order of brackets": ("(x @ self.A.T) @ self.B.T", "x @ (self.A.T @ self.B.T)"),
        "nor by einsum": (
            "(x @ self.A.T) @ self.B.T",
            "np.einsum('...i,ri,or->...o', x, self.A, self.B)",
        ),
        "nor by dot": ("(x @ self.A.T) @ self.B.T", "x.dot(np.dot(self.B, self.A).T)"),
        "a single vector will do": (_FORWARD, "x = x.reshape(-1, x.shape[-1])\n    " + _FORWARD),
        "three axes will do": ("(x @ self.A.T)", "np.dot(x, self.A.T)[: len(x)].reshape(len(x), -1)"),
        "the frozen weight takes part": (_FORWARD, "return self.scaling * (x @ self.A.T) @ self.B.T"),
        "the frozen weight is not written to": (
            _FORWARD,
            "self.original_weight += self.scaling * self.B @ self.A\n    return x @ self.original_weight.T",
        ),
        "the weight is transposed": ("self.original_weight.T", "self.original_weight"),
    },
    "merged-weight": {
        "the change is scaled": ("self.scaling * ", ""),
        "the layer's weight stays": (
            "return self.original_weight + ",
            "self.original_weight += self.scaling * self.B @ self.A\n    return self.original_weight.copy() + 0 * ",
        ),
        "a new array, also where B is zero": (
            "return ",
            "if not self.B.any():\n        return self.original_weight\n    return ",
        ),
        "and not a view": ("return ", "if not self.B.any():\n        return self.original_weight[:]\n    return "),
        "B comes first": ("self.B @ self.A", "(self.A.T @ self.B.T)"),
        "B stays as it is": (
            "return ",
            "self.B *= self.scaling\n    return self.original_weight + self.B @ self.A\n    ",
        ),
    },
    "lora-parameters": {
        "A comes first": ("[self.A, self.B]", "[self.B, self.A]"),
        "a list": ("[self.A, self.B]", "(self.A, self.B)"),
        "not copies": ("[self.A, self.B]", "[self.A.copy(), self.B.copy()]"),
        "not even of the second": ("[self.A, self.B]", "[self.A, self.B.copy()]"),
        "not views": ("[self.A, self.B]", "[self.A[:], self.B[:]]"),
        "not the frozen weight": ("[self.A, self.B]", "[self.A, self.B, self.original_weight]"),
        "both": ("[self.A, self.B]", "[self.A]"),
    },
    "backward": {
        "the gradient of A is scaled": ("grad_A = self.scaling * ", "grad_A = "),
        "the gradient of B is scaled": ("grad_B = self.scaling * ", "grad_B = "),
        "leading axes are flattened": (_BACKWARD, "x = x"),
        "three axes are not all": (_BACKWARD, "x = x.reshape(-1, x.shape[-1]) if x.ndim == 3 else x"),
        "none is possible": (_BACKWARD, "x = x.reshape(x.shape[0] if x.ndim == 2 else -1, 7) if x.ndim > 1 else 1 / 0"),
        "rows add up": ("return grad_A, grad_B", "return grad_A / len(x), grad_B / len(x)"),
        "A's gradient comes first": ("return grad_A, grad_B", "return grad_B, grad_A"),
        "shaped like A and B": ("return grad_A, grad_B", "return grad_A.T, grad_B.T"),
    },
    "trainable-percentage": {
        "in percent": ("100\n        * sum", "sum"),
        "sides are added": ("(out_features + in_features)", "(out_features * in_features)"),
        "the rank counts": ("rank * (out", "(out"),
        "without the adapter's own": ("/ total", "/ (total + sum(rank * (o + i) for o, i in shapes))"),
        "not rounded": [("return (\n        100", "return round(\n        100"), ("/ total\n", "/ total, 4\n")],
    },
    "inject-lora": {
        "a target is the whole last part": (_TARGET, "name.endswith(tuple(self.target_modules))"),
        "and not some of it": (_TARGET, "any(target in name for target in self.target_modules)"),
        "only linear layers are replaced": ("if isinstance(module, scratch.Linear)", "if hasattr(module, 'weight')"),
        "every target must mean a layer": (
            "for target in self.target_modules:",
            "for target in self.target_modules[:1]:",
        ),
        "a second call is refused": (
            'raise ValueError("LoRA is injected already")',
            "return",
        ),
        "refused before anything is frozen": (
            "    modules = dict(",
            "    for parameter in self.base_model.parameters():\n"
            "        parameter.requires_grad = False\n    modules = dict(",
        ),
        "everything else is frozen": ("self.base_model.parameters():", "[old.weight for old in found.values()]:"),
        "freezing comes before the new layers": [
            ("    for parameter in self.base_model.parameters():\n        parameter.requires_grad = False\n", ""),
            (
                "        self.layers[name] = layer",
                "        self.layers[name] = layer\n    for parameter in self.base_model.parameters():\n"
                "        parameter.requires_grad = False",
            ),
        ],
        "layers are numbered": ("seed=number", "seed=0"),
        "from 0": ("enumerate(found.items())", "enumerate(found.items(), 1)"),
        "with the rank asked for": ("old.weight, self.rank,", "old.weight, 4,"),
        "with the alpha asked for": ("self.alpha, seed", "1.0, seed"),
        "with the bias": ("bias=old.bias", "bias=None"),
        "with the weight itself": (
            "            old.weight, self",
            "            scratch.Tensor(old.weight.data.copy(), requires_grad=False), self",
        ),
        "set on the parent": ("        setattr(modules[parent], last, layer)\n", ""),
        "kept in layers": ("self.layers[name] = layer", "self.layers[last] = layer"),
        "in the model's order": ("enumerate(found.items())", "enumerate(sorted(found.items(), reverse=True))"),
        "the model's own head has a parent, too": ("setattr(modules[parent]", "parent and setattr(modules[parent]"),
    },
    "base-parameters": {
        "by what they are, not by their values": (
            "if id(tensor) not in adapters",
            "if not any(np.array_equal(tensor.data, a.data) for a in self.lora_parameters())",
        ),
        "not by requires_grad": ("if id(tensor) not in adapters", "if not tensor.requires_grad"),
        "without the adapters": ("if id(tensor) not in adapters", ""),
        "in the model's order": ("self.base_model.parameters()", "self.base_model.parameters()[::-1]"),
        "a list": [("return [", "return tuple("), ("not in adapters\n    ]", "not in adapters\n    )")],
    },
    "model-percentage": {
        "of all together": ("/ (trained + frozen)", "/ frozen"),
        "in percent": ("100 * trained", "trained"),
        "of numbers, not of tensors": ("tensor.size for tensor in self.lora", "1 for tensor in self.lora"),
        "the answer is one's own": (
            "def model_percentage(self):\n    return scratch.LoRAModel.trainable_percentage(self)"
        ),
        "the base's parameters are asked for": (
            "self.base_parameters())",
            "self.base_model.parameters() if not tensor.requires_grad)",
        ),
    },
    "torch-init": {
        "a rank of 0 is refused": ("if not 1 <= rank <=", "if not rank <="),
        "the largest rank is possible": ("1 <= rank <= limit", "1 <= rank < limit"),
        "the limit is the smaller side": ("min(base.weight.shape)", "max(base.weight.shape)"),
        "not only the inputs": ("min(base.weight.shape)", "base.in_features"),
        "not only the outputs": ("min(base.weight.shape)", "base.out_features"),
        "refused before the base is frozen": ("limit = min", "base.requires_grad_(False)\n        limit = min"),
        "the base itself": ("base.requires_grad_(False)", "__import__('copy').deepcopy(base).requires_grad_(False)"),
        "its weight is frozen": ("base.requires_grad_(False)", "base"),
        "its bias is frozen": ("base.requires_grad_(False)", "base\n        base.weight.requires_grad_(False)"),
        "A is a parameter": (
            "self.A = nn.Parameter(base.weight.new_empty(rank, base.in_features))",
            "self.A = base.weight.new_empty(rank, base.in_features)",
        ),
        "B is a parameter": (
            "self.B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))",
            "self.B = base.weight.new_zeros(base.out_features, rank)",
        ),
        "of the base's dtype and device": (
            "base.weight.new_empty(rank, base.in_features)",
            "torch.empty(rank, base.in_features)",
        ),
        "B, too": ("base.weight.new_zeros(base.out_features, rank)", "torch.zeros(base.out_features, rank)"),
        "A has kaiming_uniform_'s bound": ("a=math.sqrt(5)", "a=0"),
        "A is uniform": (
            "nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))",
            "nn.init.normal_(self.A, std=0.5 * base.in_features**-0.5)",
        ),
        "B is zero": ("nn.init.kaiming", "nn.init.ones_(self.B)\n        nn.init.kaiming"),
        "A differs from layer to layer": ("nn.init.kaiming", "torch.manual_seed(0)\n        nn.init.kaiming"),
        "scaling is divided by the rank": ("alpha / rank", "alpha"),
    },
    "torch-forward": {
        "the base is called": ("self.base(x)", "x @ self.base.weight.T"),
        "with its bias, and as the module it is": ("self.base(x)", "x @ self.base.weight.T + self.base.bias"),
        "the change is scaled": ("self.scaling * ", ""),
        "the product B A is not formed": ("(x @ self.A.T) @ self.B.T", "x @ (self.B @ self.A).T"),
        "A learns": ("self.A.T", "self.A.detach().T"),
        "B learns": ("self.B.T", "self.B.data.T"),
        "x gets a gradient": ("self.base(x)", "self.base(x.detach())"),
        "and through the detour": ("(x @ self.A.T)", "(x.detach() @ self.A.T)"),
        "any number of axes": ("(x @ self.A.T)", "torch.bmm(x, self.A.T.expand(len(x), -1, -1))"),
    },
    "torch-inject-lora": {
        "from a dot on": ('endswith(f".{target}") for target', "endswith(target) for target"),
        "the end, not the middle": (
            'any(f".{name}".endswith(f".{target}") for target in targets)',
            "any(target in name for target in targets)",
        ),
        "a full name is a target": (
            'any(f".{name}".endswith(f".{target}") for target in targets)',
            "name.split('.')[-1] in targets",
        ),
        "GPT-2's layers, too": ("(nn.Linear, Conv1D)", "nn.Linear"),
        "no other modules": ("isinstance(m, (nn.Linear, Conv1D))", "hasattr(m, 'weight') and m.weight.ndim == 2"),
        "each target must mean a layer": (
            "    for target in targets:\n        if not any",
            "    for target in targets[:1]:\n        if not any",
        ),
        "the rank is refused": ("if not 1 <= rank <= limit:", "if False:"),
        "a rank of 0 is refused": ("1 <= rank <= limit", "rank <= limit"),
        "the largest rank is possible": ("1 <= rank <= limit", "1 <= rank < limit"),
        "the limit is that of every layer": ("limit = min(", "limit = max("),
        "and of its smaller side": ("min(linear[name].weight.shape)", "linear[name].weight.shape[1]"),
        "refused before anything is frozen": ("    found = []", "    model.requires_grad_(False)\n    found = []"),
        "the model is frozen": ("    model.requires_grad_(False)\n", ""),
        "in the model's order": ("return found", "return sorted(found, key=lambda name: name.split('.')[-1])"),
        "all the names": ("return found", "return found[:2]"),
        "full names": ("return found", "return [name.split('.')[-1] for name in found]"),
        "the layers are replaced": ("        setattr(model.get_submodule(parent), last, layer)\n", ""),
        "the model's own layers have a parent, too": ("        setattr(model", "        if parent: setattr(model"),
        "with the alpha asked for": ("rank, alpha)\n        setattr", "rank, 2 * rank)\n        setattr"),
        "the answer is one's own": "torch_inject_lora = adapters.inject_lora",
    },
}
