"""Answers to `qlora`, part by part, that are right in another way than the reference."""

OTHERS = {
    "nf4-levels": """
def nf_levels(bits, offset=0.9677083):
    if offset <= 0.5 or offset >= 1:
        raise ValueError("bad offset " + repr(offset))
    h = 2 ** (bits - 1)
    Q = NormalDist(0, 1).inv_cdf
    out = []
    for i in range(h - 1, 0, -1):
        out.append(Q(1 - (0.5 + (offset - 0.5) * i / (h - 1))))
    out.append(0)
    for i in range(1, h + 1):
        out.append(Q(0.5 + (offset - 0.5) * i / h))
    return np.array([v / max(out) for v in out])
""",
    "block-absmax": """
def block_absmax(weight, block_size):
    values = [float(v) for v in weight.ravel()]
    if any(v != v or abs(v) == float("inf") for v in values):
        raise ValueError("this is not finite")
    out = []
    for i, v in enumerate(values):
        if i % block_size == 0:
            out.append(0.0)
        out[-1] = max(out[-1], abs(v))
    return np.array(out)
""",
    "nearest-codes": """
def nearest_codes(weight, absmax, levels, block_size):
    out = []
    for i, w in enumerate(weight.flatten()):
        c = absmax[i // block_size]
        q = w * (1 / c) if c else 0.0
        out.append(np.abs(levels - q).argmin())
    return np.array(out, dtype=np.uint8)
""",
    "pack-codes": """
def pack_codes(codes):
    out = []
    for c in codes:
        if c > 15:
            raise ValueError(f"{c} is too large")
    for i in range(0, len(codes), 2):
        second = codes[i + 1] if i + 1 < len(codes) else 0
        out.append(int(codes[i]) * 16 + int(second))
    return np.array(out, dtype="uint8")
""",
    "unpack-codes": """
def unpack_codes(packed, count):
    if len(packed) != -(-count // 2):
        raise ValueError(f"want {count}")
    out = np.empty(2 * len(packed), dtype=np.uint8)
    out[0::2], out[1::2] = packed // 16, packed % 16
    return out[:count]
""",
    "dequantize": """
def dequantize(codes, absmax, levels, block_size, shape):
    flat = np.array([levels[c] * absmax[i // block_size] for i, c in enumerate(codes)])
    return flat.reshape(shape)
""",
    "quantize-constants": """
def quantize_constants(absmax, block_size=256):
    offset = float(np.mean(absmax))
    d = absmax - offset
    codes, scales = [], []
    for i in range(0, len(d), block_size):
        b = d[i : i + block_size]
        s = max(abs(b))
        scales.append(s)
        codes.append(np.rint(b / s * 127) if s > 0 else np.zeros(len(b)))
    return np.concatenate(codes).astype("int8"), np.array(scales), offset
""",
    "dequantize-constants": """
def dequantize_constants(codes, scales, offset, block_size=256):
    return np.array([scales[i // block_size] / 127 * int(c) + offset for i, c in enumerate(codes)])
""",
    "qlora-forward": """
def qlora_forward(x, packed, absmax, A, B, scaling, block_size=64):
    W = dequantized(packed, absmax, (len(B), A.shape[1]), block_size)
    return x @ (W + scaling * B @ A).T
""",
    "qlora-backward": """
def qlora_backward(x, grad_output, packed, absmax, A, B, scaling, block_size=64):
    W = dequantized(packed, absmax, (len(B), A.shape[1]), block_size) + scaling * B @ A
    X, G = np.atleast_2d(x).reshape(-1, A.shape[1]), np.atleast_2d(grad_output).reshape(-1, len(B))
    dW = G.T @ X
    return grad_output @ W, scaling * B.T @ dW, scaling * dW @ A.T
""",
    "bits": """
def bits_per_parameter(block_size, double_quant=False, second_block=256):
    n = block_size * second_block
    return (4 * n + (8 * second_block + 32 if double_quant else 32 * second_block)) / n

def model_gb(parameters, bits):
    return bits / 8 * parameters * 1e-9
""",
    "training-memory": """
def training_gb(mode, parameters, adapter_parameters=0, base_bits=4.5):
    if mode == "full":
        total = parameters * 12
    elif mode == "lora":
        total = parameters * 2 + adapter_parameters * 12
    elif mode == "qlora":
        total = parameters * base_bits / 8 + adapter_parameters * 12
    else:
        raise ValueError(mode)
    return total / 10**9
""",
    "merge-routes": """
def merged_weights(original, packed, absmax, A, B, scaling, block_size=64):
    first = dequantized(packed, absmax, original.shape, block_size) + B @ A * scaling
    p, c = quantized(first, block_size)
    return first, original + B @ (scaling * A), dequantized(p, c, original.shape, block_size)
""",
    "merge-errors": """
def output_errors(x, y, weights):
    if np.linalg.norm(y) == 0:
        raise ValueError("y is zero")
    return [np.linalg.norm(x @ M.T - y) / np.linalg.norm(y) for M in weights]
""",
}
