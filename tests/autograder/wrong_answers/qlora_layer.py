"""The second part of the plausible wrong answers to `qlora`: the layer, the memory, and merging."""

_ROWS = "rows = x.reshape(-1, x.shape[-1])\n    g = grad_output.reshape(-1, grad_output.shape[-1])"
_ERROR = "np.sqrt(((x @ m.T - y) ** 2).sum()) / size"

LAYER = {
    "qlora-forward": {
        "the change is scaled": ("scaling * (x", "(x"),
        "the base takes part": ("x @ weight.T + ", ""),
        "the adapter takes part": (" + scaling * (x @ A.T) @ B.T", ""),
        "only the change is scaled": (
            "x @ weight.T + scaling * (x @ A.T) @ B.T",
            "scaling * (x @ weight.T + (x @ A.T) @ B.T)",
        ),
        "the weight's shape is (outputs, inputs)": [
            ("shape = (B.shape[0], A.shape[1])", "shape = (A.shape[1], B.shape[0])"),
            ("weight.T", "weight"),
        ],
        "the block size counts": ("shape, block_size)", "shape)"),
        "a single vector will do": ("    return", "    x[:, 0]\n    return"),
        "three axes will do": ("    return", "    x = x.reshape(-1, x.shape[-1]) if x.ndim == 3 else x\n    return"),
        "the adapter is not quantised": (
            "shape = (B",
            "A = dequantized(*quantized(A, block_size), A.shape, block_size)\n    shape = (B",
        ),
        "A stays as it is": ("    return", "    A *= scaling\n    scaling = 1\n    return"),
        "the product B A is not rounded": ("scaling * (x @ A.T) @ B.T", "scaling * x @ np.round(B @ A, 3).T"),
    },
    "qlora-backward": {
        "the base passes the gradient on": ("grad_x = g @ weight + ", "grad_x = "),
        "the adapter passes it on, too": (" + scaling * (g @ B) @ A", ""),
        "with the scaling": ("g @ weight + scaling * (g @ B) @ A", "g @ weight + (g @ B) @ A"),
        "only the adapter's part is scaled": (
            "g @ weight + scaling * (g @ B) @ A",
            "scaling * (g @ weight + (g @ B) @ A)",
        ),
        "the gradient of A is scaled": ("grad_A = scaling * ", "grad_A = "),
        "the gradient of B is scaled": ("grad_B = scaling * ", "grad_B = "),
        "leading axes are flattened": (_ROWS, "rows, g = x, grad_output"),
        "three axes are not all": (
            _ROWS,
            "rows = x.reshape(-1, x.shape[-1]) if x.ndim < 4 else x\n"
            "    g = grad_output.reshape(-1, grad_output.shape[-1]) if x.ndim < 4 else grad_output",
        ),
        "rows add up": (
            "    return grad_x",
            "    grad_A, grad_B = grad_A / len(rows), grad_B / len(rows)\n    return grad_x",
        ),
        "each row of x has its gradient": ("grad_x.reshape(x.shape)", "grad_x.sum(axis=0)"),
        "x stays as it is": ("    grad_B =", "    x *= scaling\n    scaling = 1\n    grad_B ="),
        "in the shape of x": ("grad_x.reshape(x.shape)", "grad_x"),
        "x first": ("return grad_x.reshape(x.shape), grad_A, grad_B", "return grad_A, grad_B, grad_x.reshape(x.shape)"),
        "A before B": ("(x.shape), grad_A, grad_B", "(x.shape), grad_B, grad_A"),
        "A's shape": ("return grad_x.reshape(x.shape), grad_A,", "return grad_x.reshape(x.shape), grad_A.T,"),
        "no gradient for the weight": (
            "return grad_x.reshape(x.shape), grad_A, grad_B",
            "return grad_x.reshape(x.shape), grad_A, grad_B, g.T @ rows",
        ),
        "nor None for it": (
            "return grad_x.reshape(x.shape), grad_A, grad_B",
            "return grad_x.reshape(x.shape), None, grad_A, grad_B",
        ),
        "the block size counts": ("shape, block_size)", "shape)"),
        "the weight's shape is (outputs, inputs)": [
            ("shape = (B.shape[0], A.shape[1])", "shape = (A.shape[1], B.shape[0])"),
            ("g @ weight", "g @ weight.T"),
        ],
    },
    "bits": {
        "the codes take four bits": ("return 4 + constants", "return constants"),
        "a constant takes 32": ("32 / block_size", "16 / block_size"),
        "and 8 with double quantisation": ("(8 + 32 / second_block)", "(16 + 32 / second_block)"),
        "and its scale": ("(8 + 32 / second_block)", "8"),
        "the scale is of 32 bits": ("8 + 32 / second_block", "8 + 8 / second_block"),
        "the scale is shared by constants": (
            "(8 + 32 / second_block) / block_size",
            "8 / block_size + 32 / second_block",
        ),
        "the old constants are gone": ("constants = (8", "constants += (8"),
        "the second block counts": ("32 / second_block", "32 / 256"),
        "only with double quantisation": ("if double_quant:", "if double_quant or second_block != 256:"),
        "the first block counts": ("    constants = 32", "    block_size = 64\n    constants = 32"),
        "not rounded": ("return 4 + constants", "return round(4 + constants, 3)"),
        "bits are not bytes": ("parameters * bits / 8 / 1e9", "parameters * bits / 1e9"),
        "GB are not GiB": ("/ 1e9", "/ 2**30"),
        "nor MB": ("/ 1e9", "/ 1e6"),
        "GB are not rounded": ("return parameters * bits / 8 / 1e9", "return round(parameters * bits / 8 / 1e9, 2)"),
    },
    "training-memory": {
        "two bytes for itself, two for the gradient, eight for Adam": ("12 * trained", "10 * trained"),
        "in full training, too": ("12 * trained", "(16 if mode == 'full' else 12) * trained"),
        "nothing is frozen in full training": ('"full": 0', '"full": 16'),
        "no adapter is there in full training": (
            "trained = parameters if",
            "trained = parameters + adapter_parameters if",
        ),
        "only the adapter is trained": ('if mode == "full" else', 'if mode != "qlora" else'),
        "and in qlora": ('if mode == "full" else', 'if mode != "lora" else'),
        "the base of LoRA has 16 bits": ('"lora": 16', '"lora": 32'),
        "not the base's bits": ('"lora": 16', '"lora": base_bits'),
        "the base's bits count": ('"qlora": base_bits', '"qlora": 4'),
        "the base is there": ("12 * trained + parameters * bits / 8", "12 * trained"),
        "bits are not bytes": ("parameters * bits / 8", "parameters * bits"),
        "the base does not lose the adapter's size": (
            "+ parameters * bits",
            "+ (parameters - adapter_parameters) * bits",
        ),
        "GB are not GiB": ("/ 1e9", "/ 2**30"),
        "another mode is refused": (
            '    if mode not in ("full", "lora", "qlora"):',
            "    mode = mode.lower()\n    if mode not in ('full', 'lora', 'qlora'):",
        ),
        "also one that begins alike": (
            '    if mode not in ("full", "lora", "qlora"):',
            "    mode = mode[:5] if mode.startswith('qlora') else mode\n    if mode not in ('full', 'lora', 'qlora'):",
        ),
        "with its name": ("mode {mode!r} is none", "this mode is none"),
    },
    "merge-routes": {
        "the change is scaled": ("scaling * B @ A", "B @ A"),
        "B comes first": ("scaling * B @ A", "scaling * (A.T @ B.T).reshape(original.shape)"),
        "the first is into the dequantised weight": ("base + change", "original + change"),
        "not into the bare weight": ("into_quantised = base + change", "into_quantised = base"),
        "the second is into the original": ("        original + change,", "        into_quantised,"),
        "with the change": ("        original + change,", "        original,"),
        "the third is dequantised": (
            "        dequantized(*again, original.shape, block_size),",
            "        again[0],",
        ),
        "it is the first that is quantised again": (
            "again = quantized(into_quantised, block_size)",
            "again = quantized(original + change, block_size)",
        ),
        "after the change, not before": (
            "dequantized(*again, original.shape, block_size)",
            "dequantized(*quantized(original, block_size), original.shape, block_size) + change",
        ),
        "quantised anew, not with the old constants": ("*again,", "again[0], absmax,"),
        "the block size counts": ("quantized(into_quantised, block_size)", "quantized(into_quantised)"),
        "and for the first": ("absmax, original.shape, block_size)", "absmax, original.shape)"),
        "in this order": (
            "return (\n        into_quantised,\n        original + change,",
            "return (\n        original + change,\n        into_quantised,",
        ),
        "the original stays as it is": (
            "        original + change,",
            "        np.add(original, change, out=original),",
        ),
        "three": ("        original + change,\n", ""),
    },
    "merge-errors": {
        "relative to y": (" / size", ""),
        "not to the merged output": (
            _ERROR,
            "np.sqrt(((x @ m.T - y) ** 2).sum()) / np.sqrt(((x @ m.T) ** 2).sum())",
        ),
        "of outputs, not of weights": ("((x @ m.T - y) ** 2).sum()", "((m - weights[0]) ** 2).sum()"),
        "the root": (
            f"float({_ERROR})",
            "float(((x @ m.T - y) ** 2).sum() / size**2)",
        ),
        "squares, not absolute values": (
            _ERROR,
            "np.abs(x @ m.T - y).sum() / np.abs(y).sum()",
        ),
        "of all together, not entry by entry": (
            f"float({_ERROR})",
            "float(np.abs((x @ m.T - y) / np.where(y, y, 1)).mean())",
        ),
        "nor row by row": (
            f"float({_ERROR})",
            "float((np.linalg.norm(x @ m.T - y, axis=-1) / np.linalg.norm(y, axis=-1)).mean())",
        ),
        "not only the largest": (
            _ERROR,
            "np.abs(x @ m.T - y).max() / np.abs(y).max()",
        ),
        "of every weight": ("for m in weights", "for m in weights[:2]"),
        "in order": (
            f"return [float({_ERROR}) for m in weights]",
            f"return sorted([float({_ERROR}) for m in weights], reverse=True)",
        ),
        "a list": [("return [", "return tuple(["), ("for m in weights]", "for m in weights])")],
        "not an array": [("return [", "return np.array(["), ("for m in weights]", "for m in weights])")],
        "y stays as it is": ("    size =", "    y *= 1.5\n    y /= 1.4\n    size ="),
        "leading axes are possible": (
            "    size =",
            "    x.shape[1], x[0].shape[0] == x.shape[1] or y[:, 0]\n    size =",
        ),
        "an output of zeros is refused": ("if not y.any():", "if y.ndim == 1 and not y.any():"),
        "but not a single zero": ("if not y.any():", "if not y.all():"),
        "by this word": ("output is zero", "output is nothing"),
    },
}
