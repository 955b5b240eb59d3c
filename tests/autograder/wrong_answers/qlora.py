"""Plausible wrong answers to `qlora`: one for each requirement that its text states. See `test_wrong_answers`.

Those of the layer, the memory and merging, parts 9 to 14, are in `qlora_layer`.
"""

from wrong_answers.qlora_layer import LAYER

_BLOCKS = "return np.array([np.abs(flat[i : i + block_size]).max() for i in starts])"
_SEARCH = "np.searchsorted(midpoints, scaled)"
_PAIRS = "(even[::2] << 4) | even[1::2]"
_BOTH = "both = np.stack([packed >> 4, packed & 15], axis=1)"
_REPEAT = "np.repeat(absmax, block_size)[: codes.size]"
_ENOUGH = "if packed.size != (count + 1) // 2:"

WRONG = {
    "nf4-levels": {
        "the number of bits counts": ("half = 2 ** (bits - 1)", "half = 8"),
        "half of the levels are positive": [
            ("half + 1)[:-1]", "half)[:-1]"),
            ("0.5, half)[:-1]]\n    levels", "0.5, half + 1)[:-1]]\n    levels"),
        ],
        "both sides are not alike": ("half + 1)[:-1]", "half)[:-1]"),
        "0 is a level": ("[*negative, 0.0, *positive]", "[*negative, *positive]"),
        "exactly, not from a list of evenly spaced probabilities": (
            "levels = np.array(sorted([*negative, 0.0, *positive]))",
            "levels = np.array([quantile(p) for p in np.linspace(1 - offset, offset, 2 * half)])",
        ),
        "nor almost": ("[*negative, 0.0,", "[*negative, 1e-9,"),
        "the largest is 1": ("levels / levels.max()", "levels"),
        "and not only nearly": ("levels / levels.max()", "levels / (levels.max() + 1e-6)"),
        "divided by the largest, not by their spread": ("levels / levels.max()", "levels / levels.std()"),
        "in ascending order": ("sorted([*negative, 0.0, *positive])", "[0.0, *negative, *positive]"),
        "ascending, not descending": ("levels / levels.max()", "(levels / levels.max())[::-1]"),
        "the offset counts": ("    half = ", "    offset = 0.9677083\n    half = "),
        "the negative side has its offset, too": (
            "np.linspace(offset, 0.5, half)[",
            "np.linspace(0.9677083, 0.5, half)[",
        ),
        "quantiles, not equal steps": ("quantile = NormalDist().inv_cdf", "quantile = lambda p: p - 0.5"),
        "an offset of 1 is refused": ("< offset < 1:", "< offset <= 1.1:"),
        "an offset of 0.5 is refused": ("0.5 < offset", "0.5 <= offset"),
        "and what is below": ("if not 0.5 < offset < 1:", "if offset >= 1 or offset == 0.5:"),
        "with its value": ('f"offset {offset} is not', 'f"the offset is not'),
        "four bits are not all": ("return levels / levels.max()", "return NF4"),
        "not rounded": ("return levels / levels.max()", "return np.round(levels / levels.max(), 7)"),
    },
    "block-absmax": {
        "absolute values": ("np.abs(flat[i : i + block_size]).max()", "flat[i : i + block_size].max()"),
        "of the largest": ("np.abs(flat[i : i + block_size]).max()", "abs(flat[i : i + block_size].max())"),
        "the last block may be short": (
            "range(0, flat.size, block_size)",
            "range(0, flat.size - block_size + 1, block_size)",
        ),
        "and holds what is left": (
            "starts = range(0",
            "flat = np.resize(flat, -(-flat.size // block_size) * block_size)\n    starts = range(0",
        ),
        "all blocks but the last are full": (
            _BLOCKS,
            "return np.array([np.abs(b).max() for b in np.array_split(flat, len(starts))])",
        ),
        "row by row": ("weight.reshape(-1)", "weight.reshape(-1, order='F')"),
        "a block goes on in the next row": (
            _BLOCKS,
            "rows = np.atleast_2d(weight).reshape(-1, weight.shape[-1])\n"
            "    return np.array([np.abs(row[i : i + block_size]).max() for row in rows"
            " for i in range(0, row.size, block_size)])",
        ),
        "a constant for each block": (_BLOCKS, "return np.array([np.abs(flat).max() for i in starts])"),
        "one axis": (_BLOCKS, _BLOCKS.replace(".max()", ".max(keepdims=True)")),
        "a constant of 0 is possible": (".max() for i", ".max(initial=1e-8) for i"),
        "the block size counts": ("range(0, flat.size, block_size)", "range(0, flat.size, 64)"),
        "the largest, not the mean": (".max() for i", ".mean() for i"),
        "a NaN is refused": ("if not np.isfinite(flat).all():", "if np.isinf(flat).any():"),
        "an infinity is refused": ("if not np.isfinite(flat).all():", "if np.isnan(flat).any():"),
        "a negative one, too": ("if not np.isfinite(flat).all():", "if not flat.max() < np.inf:"),
        "by these words": ("the weight is not finite", "the weight has a NaN"),
        "the weight stays as it is": ("flat = weight.reshape(-1)", "flat = np.abs(weight, out=weight).reshape(-1)"),
        "the answer is one's own": (
            "def block_absmax(weight, block_size):\n"
            "    if not np.isfinite(weight).all():\n"
            '        raise ValueError("not finite")\n'
            "    return quantized(weight, block_size)[1]"
        ),
    },
    "nearest-codes": {
        "divided by the constant": ("scaled = flat / np.where(scale > 0, scale, 1.0)", "scaled = flat"),
        "that of the block": ("np.repeat(absmax, block_size)[: flat.size]", "np.full(flat.size, absmax.max())"),
        "blocks are consecutive": (
            "np.repeat(absmax, block_size)[: flat.size]",
            "np.resize(absmax, flat.size)",
        ),
        "the block size counts": ("np.repeat(absmax, block_size)", "np.repeat(absmax, 64)"),
        "the nearest level, not the one below": (_SEARCH, "(np.searchsorted(levels, scaled, side='right') - 1)"),
        "nor the one above": (_SEARCH, "np.searchsorted(levels, scaled)"),
        "a tie goes to the lower code": (_SEARCH, "np.searchsorted(midpoints, scaled, side='right')"),
        "not away from 0": (
            _SEARCH,
            "np.where(scaled > 0, np.searchsorted(midpoints, scaled, 'right'), np.searchsorted(midpoints, scaled))",
        ),
        "nor towards 0": (
            _SEARCH,
            "np.where(scaled < 0, np.searchsorted(midpoints, scaled, 'right'), np.searchsorted(midpoints, scaled))",
        ),
        "nor to the even one": (
            "    return ",
            "    right, left = np.searchsorted(midpoints, scaled, side='right'), np.searchsorted(midpoints, scaled)\n"
            "    return np.where(left % 2, right, left).astype(np.uint8)\n    return ",
        ),
        "entries are not rounded before": (_SEARCH, "np.searchsorted(midpoints, np.round(scaled, 1))"),
        "levels are not rounded before": (
            "(levels[:-1] + levels[1:]) / 2",
            "np.round((levels[:-1] + levels[1:]) / 2, 2)",
        ),
        "a block of zeros gets the level nearest to 0": (
            "scaled = flat / np.where(scale > 0, scale, 1.0)",
            "scaled = np.where(scale > 0, flat / np.where(scale > 0, scale, 1.0), -1.0)",
        ),
        "it is not a number for argmin": (
            "    midpoints = (levels[:-1] + levels[1:]) / 2\n    " + "return np.searchsorted(midpoints, scaled)",
            "    return np.abs((flat / scale)[:, None] - levels).argmin(axis=1)",
        ),
        "which is not always code 7": (
            "return np.searchsorted(midpoints, scaled)",
            "return np.where(scale > 0, np.searchsorted(midpoints, scaled), 7)",
        ),
        "the levels given are used": ("midpoints = (levels", "levels = NF4\n    midpoints = (levels"),
        "of type uint8": (".astype(np.uint8)", ""),
        "not of int8": ("np.uint8", "np.int8"),
        "the weight stays as it is": ("scaled = flat / np.where", "scaled = flat\n    scaled /= np.where"),
        "flat": (".astype(np.uint8)", ".astype(np.uint8).reshape(weight.shape)"),
        "row by row": ("weight.reshape(-1)", "weight.reshape(-1, order='F')"),
        "the answer is one's own": (
            "def nearest_codes(weight, absmax, levels, block_size):\n"
            "    packed, _ = quantized(weight, block_size)\n"
            "    return np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[: weight.size]"
        ),
    },
    "pack-codes": {
        "the first code is in the high half": (_PAIRS, "(even[1::2] << 4) | even[::2]"),
        "neighbours share a byte": (_PAIRS, "(even[: even.size // 2] << 4) | even[even.size // 2 :]"),
        "four bits each": (_PAIRS, "10 * even[::2] + even[1::2]"),
        "an odd number is possible": ("np.zeros(codes.size % 2, dtype=np.uint8)", "np.zeros(0, dtype=np.uint8)"),
        "the last of an odd number is not lost": (
            "even = np.append",
            "codes = codes[: codes.size // 2 * 2]\n    even = np.append",
        ),
        "it is in the high half": (
            "np.append(codes, np.zeros(codes.size % 2, dtype=np.uint8))",
            "np.insert(codes, codes.size - 1, [0] * (codes.size % 2))",
        ),
        "with 0 in the low one": (
            "np.zeros(codes.size % 2, dtype=np.uint8)",
            "np.full(codes.size % 2, 7, dtype=np.uint8)",
        ),
        "of type uint8": (_PAIRS, "even[::2] * 16 + even[1::2].astype(int)"),
        "16 is refused": ("> 15", "> 16"),
        "15 is not": ("> 15", ">= 15"),
        "any large code is refused": ("codes.max(initial=0) > 15", "16 in codes"),
        "also in the low half": ("codes.max(initial=0)", "codes[::2].max(initial=0)"),
        "also in the high half": ("codes.max(initial=0)", "codes[1::2].max(initial=0)"),
        "with its value": ('f"code {codes.max()} does', 'f"a code does'),
        "the codes stay as they are": (
            "even = np.append",
            "codes[::2] <<= 4\n    codes[::2] >>= 3\n    even = np.append",
        ),
        "the answer is one's own": (
            "def pack_codes(codes):\n"
            "    if codes.max() > 15:\n"
            '        raise ValueError(f"code {codes.max()}")\n'
            "    return quantized(NF4[codes], codes.size)[0]"
        ),
    },
    "unpack-codes": {
        "the first code is in the high half": (_BOTH, "both = np.stack([packed & 15, packed >> 4], axis=1)"),
        "neighbours share a byte": ("axis=1)", "axis=0)"),
        "the low half of the last byte may be no code": ("[:count]", ""),
        "of type uint8": ("[:count]", "[:count].astype(int)"),
        "four bits each": ("packed & 15", "packed & 7"),
        "an array, not bytes": ("return both.reshape(-1)[:count]", "return bytes(both.reshape(-1)[:count])"),
        "the bytes stay as they are": (_BOTH, "packed >>= 4\n    " + _BOTH),
        "too few bytes are refused": (_ENOUGH, "if packed.size > (count + 1) // 2:"),
        "too many bytes are refused": (_ENOUGH, "if packed.size < (count + 1) // 2:"),
        "an odd number needs one more": (_ENOUGH, "if packed.size != count // 2:"),
        "also by one code": (_ENOUGH, "if abs(2 * packed.size - count) > 1:"),
        "with the number": ("do not hold {count} codes", "are not enough"),
        "the answer is one's own": (
            "def unpack_codes(packed, count):\n"
            "    if packed.size != (count + 1) // 2:\n"
            '        raise ValueError(f"not {count} codes")\n'
            "    back = dequantized(packed, np.ones(1), (count,), count)\n"
            "    return np.abs(back[:, None] - NF4).argmin(axis=1).astype(np.uint8)"
        ),
    },
    "dequantize": {
        "the constant counts": ("levels[codes] * scale", "levels[codes]"),
        "that of the block": (_REPEAT, "absmax.max()"),
        "blocks are consecutive": (_REPEAT, "np.resize(absmax, codes.size)"),
        "the last block may be short": (_REPEAT, "np.repeat(absmax, codes.size // absmax.size)"),
        "all blocks but the last are full": (
            _REPEAT,
            "np.concatenate([np.full(b.size, c) for b, c in zip(np.array_split(codes, absmax.size), absmax)])",
        ),
        "the block size counts": ("np.repeat(absmax, block_size)", "np.repeat(absmax, 64)"),
        "the levels given are used": ("levels[codes]", "NF4[codes]"),
        "not equal steps": ("levels[codes]", "(codes * (2 / (levels.size - 1)) - 1)"),
        "in the weight's shape": (".reshape(shape)", ""),
        "row by row": (".reshape(shape)", ".reshape(shape, order='F')"),
        "a block goes on in the next row": (
            "(levels[codes] * scale).reshape(shape)",
            "levels[codes].reshape(shape) * absmax.max()",
        ),
        "the levels stay as they are": ("    scale =", "    levels *= absmax.max()\n    scale ="),
        "in full precision": ("(levels[codes] * scale)", "(levels[codes] * scale).astype(np.float16)"),
        "the answer is one's own": (
            "def dequantize(codes, absmax, levels, block_size, shape):\n"
            "    packed = 16 * codes[::2] + np.append(codes, [0] * (codes.size % 2))[1::2]\n"
            "    return dequantized(packed.astype(np.uint8), absmax, shape, block_size)"
        ),
    },
    "quantize-constants": {
        "the mean is subtracted": ("centred = absmax - offset", "centred = absmax"),
        "the mean of all": (
            "centred = absmax - offset",
            "centred = np.concatenate([b - b.mean() for b in "
            "[absmax[i : i + block_size] for i in range(0, absmax.size, block_size)]])",
        ),
        "not the median": ("absmax.mean()", "np.median(absmax)"),
        "not the least": ("absmax.mean()", "absmax.min()"),
        "not the middle": ("absmax.mean()", "(absmax.max() + absmax.min()) / 2"),
        "scales are absolute": ("np.abs(centred[i : i + block_size]).max()", "centred[i : i + block_size].max()"),
        "of the differences": ("np.abs(centred[i", "np.abs(absmax[i"),
        "each block has its own": ("np.abs(centred[i : i + block_size]).max()", "np.abs(centred).max()"),
        "the last block may be short": (
            "starts = range(0, centred.size, block_size)",
            "starts = range(0, max(centred.size - block_size + 1, 1), block_size)",
        ),
        "the block size counts": ("    offset = absmax", "    block_size = 256\n    offset = absmax"),
        "256 where none is given": ("block_size=256", "block_size=64"),
        "to 127": ("127 * centred", "128 * centred"),
        "up to the end": ("127 * centred", "100 * centred"),
        "rounded, not cut": ("np.rint(127", "np.trunc(127"),
        "nor rounded down": ("np.rint(127", "np.floor(127"),
        "as rint rounds a half": (
            "np.rint(127 * centred / np.where(each > 0, each, 1.0))",
            "np.floor(127 * centred / np.where(each > 0, each, 1.0) + 0.5)",
        ),
        "of type int8": ("codes.astype(np.int8)", "codes.astype(int)"),
        "with a sign": ("codes.astype(np.int8)", "(codes + 127).astype(np.uint8)"),
        "a scale of 0 is possible": (
            "np.where(each > 0, each, 1.0)",
            "np.where(each > 0, each, 1e-300) + 0 * centred[0]**-1",
        ),
        "and its codes are 0": ("return codes", "codes[each == 0] = -127\n    return codes"),
        "in this order": ("codes.astype(np.int8), scales, offset", "codes.astype(np.int8), offset, scales"),
        "the constants stay as they are": ("centred = absmax - offset", "centred = absmax\n    centred -= offset"),
        "the offset is a number": ("scales, offset", "scales, np.array([offset])"),
    },
    "dequantize-constants": {
        "the offset is added": (" + offset", ""),
        "not subtracted": (" + offset", " - offset"),
        "divided by 127": ("/ 127", "/ 128"),
        "divided at all": (" / 127", ""),
        "the scale counts": ("each * codes", "codes"),
        "that of the block": ("np.repeat(scales, block_size)[: codes.size]", "scales.max()"),
        "blocks are consecutive": ("np.repeat(scales, block_size)[: codes.size]", "np.resize(scales, codes.size)"),
        "the last block may be short": (
            "np.repeat(scales, block_size)[: codes.size]",
            "np.repeat(scales, codes.size // scales.size)",
        ),
        "the block size counts": ("np.repeat(scales, block_size)", "np.repeat(scales, 256)"),
        "256 where none is given": ("block_size=256", "block_size=64"),
        "the offset is not scaled": ("each * codes / 127 + offset", "each * (codes / 127 + offset)"),
        "in full precision": (
            "return each * codes / 127 + offset",
            "return (each * codes / 127 + offset).astype(np.float32)",
        ),
        "the scales stay as they are": ("    each =", "    scales /= 127\n    codes = 127.0 * codes\n    each ="),
        "codes have a sign": ("each * codes", "each * codes.view(np.uint8)"),
    },
} | LAYER
