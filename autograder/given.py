"""What an assignment gives for the parts that build on others: its first cell imports it.

An answer that may not use it is refused by `own_work`, as it is for the library's own functions.
"""

import re

import numpy as np

# The 16 levels of NF4 in float32, as bitsandbytes has them (Dettmers et al. 2023, appendix E).
NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)
NF4.flags.writeable = False  # the checks of several parts give it to answers


def quantized(weight: np.ndarray, block_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A weight in NF4. A tie between two levels goes to the lower one, as in bitsandbytes.

    Args:
        weight: Any shape, n entries.
        block_size: How many consecutive entries share a constant; the last block may be short.

    Returns:
        packed, uint8 (half of n, rounded up,) with the first code of each pair in the high four bits, and the
        constants, (number of blocks,).
    """
    blocks = np.pad(weight.reshape(-1), (0, -weight.size % block_size)).reshape(-1, block_size)
    absmax = np.abs(blocks).max(axis=1)
    # a block of zeros: any divisor leaves 0
    scaled = (blocks / np.where(absmax > 0, absmax, 1.0)[:, None]).reshape(-1)[: weight.size]
    codes = np.searchsorted((NF4[:-1] + NF4[1:]) / 2, scaled)
    pairs = np.pad(codes, (0, codes.size % 2)).reshape(-1, 2)  # (n / 2, 2)
    return (pairs @ [16, 1]).astype(np.uint8), absmax


def dequantized(packed: np.ndarray, absmax: np.ndarray, shape: tuple[int, ...], block_size: int = 64) -> np.ndarray:
    """The weight that `packed` and `absmax` stand for; the inverse of `quantized`, up to the rounding.

    Args:
        packed: Two codes in each byte, uint8.
        absmax: The constants, (number of blocks,).
        shape: The weight's shape.
        block_size: How many consecutive entries share a constant.

    Returns:
        Floats of the given shape.
    """
    count = int(np.prod(shape))
    levels = NF4[np.stack(np.divmod(packed, 16), axis=-1)].reshape(-1)[:count]
    return (levels * absmax[np.arange(count) // block_size]).reshape(shape)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Softmax attention. Where there are fewer key heads, each serves as many consecutive query heads.

    Args:
        q: Queries, (heads, n, head_dim).
        k: Keys, (kv_heads, T, head_dim).
        v: Values, (kv_heads, T, head_dim).
        mask: bool, (n, T): True where a query sees a key. Each query sees one at least.

    Returns:
        (heads, n, head_dim).
    """
    k, v = (np.repeat(each, len(q) // len(each), axis=0) for each in (k, v))  # (heads, T, head_dim)
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])  # (heads, n, T)
    scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


def rotate(x: np.ndarray, positions: np.ndarray, base: float = 10000.0) -> np.ndarray:
    """Rotary position embedding (Su et al. 2021), with the pairs (i, i + head_dim / 2) that Llama has.

    Args:
        x: Queries or keys, (heads, n, head_dim); head_dim is even.
        positions: The position of each, (n,).
        base: The pair i turns by positions * base ** (-2 i / head_dim).

    Returns:
        The rotated vectors, (heads, n, head_dim).
    """
    half = x.shape[-1] // 2
    angles = np.asarray(positions)[:, None] * base ** (-np.arange(half) / half)  # (n, head_dim / 2)
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def normalised(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Layer normalisation over the last axis, without gradients.

    Args:
        x: (..., width).
        weight: (width,).
        bias: (width,).
        eps: What is added to the variance.

    Returns:
        (..., width).
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return centred / deviation * weight + bias


def activated(x: np.ndarray) -> np.ndarray:
    """GELU of each entry, as GPT-2 computes it, without gradients."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Causal softmax attention; leading axes, such as batch and heads, are independent of each other.

    Args:
        q: (..., time, head_dim).
        k: (..., time, head_dim).
        v: (..., time, width).

    Returns:
        (..., time, width).
    """
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    scores = np.where(np.tri(q.shape[-2], dtype=bool), scores, -np.inf)  # a position sees itself and those before it
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights @ v / weights.sum(axis=-1, keepdims=True)


def library_block(x: np.ndarray, w: dict[str, np.ndarray], num_heads: int) -> np.ndarray:
    """A block of the GPT: attention and MLP, each behind a norm, and each added to its input.

    Args:
        x: (batch, time, width).
        w: The arrays by the names that they have in the library, such as "attention.q_proj.weight".
        num_heads: How many heads the width is cut into.

    Returns:
        (batch, time, width).
    """

    def linear(values: np.ndarray, name: str) -> np.ndarray:
        return values @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def normed(values: np.ndarray, name: str) -> np.ndarray:
        return normalised(values, w[f"{name}.weight"], w[f"{name}.bias"])

    h = normed(x, "norm1")
    q, k, v = (np.split(linear(h, f"attention.{each}_proj"), num_heads, axis=-1) for each in "qkv")
    heads = [attended(*each) for each in zip(q, k, v, strict=True)]  # each (batch, time, width / heads)
    x = x + linear(np.concatenate(heads, axis=-1), "attention.out_proj")
    return x + linear(activated(linear(normed(x, "norm2"), "up_proj")), "down_proj")


def library_pair(words: dict[tuple[int, ...], int]) -> tuple[int, int] | None:
    """The pair of neighbouring ids that occurs most often, and of several the smallest; None where none occurs twice.

    Args:
        words: How often each word occurs, by its ids.
    """
    counts: dict[tuple[int, int], int] = {}
    for ids, often in words.items():
        for pair in zip(ids, ids[1:]):  # noqa: B905 - the last id has no neighbour
            counts[pair] = counts.get(pair, 0) + often
    most = max(counts.values(), default=0)
    return min(pair for pair, count in counts.items() if count == most) if most >= 2 else None


def prompt_and_response(record: dict[str, str]) -> tuple[str, str]:
    """A record in Alpaca's format as two texts: what the model is given, and what it is to learn.

    Args:
        record: The texts "instruction", "input" (which may be empty) and "output".
    """
    titles = {"instruction": "Instruction", "input": "Input", "output": "Response"}
    sections = []
    for key, title in titles.items():
        # a line of the text that looks like one of the template's gets one backslash more
        text = re.sub(r"^(\\*### (?:Instruction|Input|Response):)$", r"\\\1", record[key], flags=re.MULTILINE)
        if text or key != "input":
            sections.append(f"### {title}:\n{text}")
    prompt = "\n".join(sections[:-1]) + "\n### Response:\n"
    return prompt, sections[-1].removeprefix("### Response:\n")
