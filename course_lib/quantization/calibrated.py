"""Rounding that looks at the layer's inputs: GPTQ (Frantar et al. 2022, arXiv:2210.17323).

Rounding to the nearest level makes each weight's error small. What counts is the error of the layer's output,

    ||X W^T - X Q^T||^2 = sum over the rows w of W of (w - q) H (w - q)^T,    H = X^T X        X: (n, in), W: (out, in)

Where inputs are correlated, an error in one column can be made up for by another column. GPTQ rounds column by column
and after each one changes those that are not rounded yet so that the output changes least (eq. 2 of the paper):

    e = (w_j - q_j) / U[j, j],    w_k <- w_k - e U[j, k] for k > j,    U^T U = H^-1,  U upper triangular

U holds in its row j what the inverse Hessian of the columns from j on says, so one Cholesky factor serves all steps
(section 3.3, step 3). A block's constant is the largest absolute weight when the block is begun, as the paper's
grouping has it. With uncorrelated inputs H is diagonal, nothing is passed on, and the result is round-to-nearest.

Left out: the order of columns by activation (act-order), lazy batches of 128 columns (they only save time), the layers
before being quantised while a layer is calibrated, and double quantisation. AWQ (arXiv:2306.00978) scales columns
instead. tests/quantization/test_calibrated.py has a 2 x 2 example worked by hand.

The packaged SmolLM2 does not suit such a comparison: its weights are multiples of Q4_1's steps already, so how
they round says nothing about weights as training leaves them. Take a model that was trained here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.errors import CourseError
from course_lib.models.devices import device_of
from course_lib.models.linear_layers import linear_layers, select_layers
from course_lib.models.modes import evaluating
from course_lib.quantization.levels import LEVELS
from course_lib.quantization.tensor import SMALLEST, QuantizedTensor, check_kind, quantize_4bit

DAMPING = 0.01  # of H's mean diagonal, added to the diagonal (section 3.3, "numerical inaccuracies")


def gptq(
    weight: Tensor, hessian: Tensor, quant_type: str = "nf4", block_size: int = 64, damping: float = DAMPING
) -> QuantizedTensor:
    """Quantise a weight so that the layer's output changes little on the inputs that `hessian` was computed from.

    Args:
        weight: (out, in), with `in` a multiple of the block size: a block lies within a row.
        hessian: X^T X of the layer's inputs, (in, in), as `collect_hessians` gives it.
        quant_type: "nf4", "fp4" or "int4".
        block_size: weights that share a constant.
        damping: what is added to H's diagonal, as a share of its mean. It makes H invertible.

    Returns:
        The quantised weight, in the format of `quantize_4bit`: reading it costs the same.

    Raises:
        CourseError: the shapes do not fit, or the numbers are not finite.
    """
    check_kind(quant_type, block_size)
    _check(weight, hessian, block_size)
    left = weight.detach().double().clone()  # (out, in): the columns that are not rounded yet, as they are changed
    factor = _inverse_factor(hessian, damping)  # U, (in, in)
    ranked, order = LEVELS[quant_type]().to(weight.device).sort(stable=True)  # rank -> level, rank -> code
    boundaries = (ranked[:-1] + ranked[1:]) / 2
    rows, columns = weight.shape
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=weight.device)
    constants = torch.empty(rows, columns // block_size, device=weight.device)
    for j in range(columns):
        block = j // block_size
        if j % block_size == 0:
            constants[:, block] = left[:, j : j + block_size].abs().amax(1).float()
        constant = constants[:, block].clamp(min=SMALLEST)  # (out,)
        # As in quantize_4bit: times 1 / c in float32, and a number on a boundary belongs to the level below it.
        ranks = torch.searchsorted(boundaries, left[:, j].float() * (1 / constant))
        codes[:, j] = order[ranks].to(torch.uint8)
        error = (left[:, j] - ranked[ranks] * constant) / factor[j, j]  # (out,)
        left[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]  # (out, in - j - 1)
    packed = codes.view(-1, 2)  # a row has an even number of weights
    return QuantizedTensor(
        packed[:, 0] << 4 | packed[:, 1], constants.view(-1), weight.shape, quant_type, block_size, weight.dtype
    )


def _check(weight: Tensor, hessian: Tensor, block_size: int) -> None:
    if weight.dim() != 2 or weight.shape[1] % block_size:
        raise CourseError(
            f"GPTQ wants blocks within a row: the weight has shape {tuple(weight.shape)}, whose second number is not a "
            f"multiple of the block size {block_size}. Choose a smaller block."
        )
    if hessian.shape != (weight.shape[1], weight.shape[1]):
        raise CourseError(
            f"The Hessian of {weight.shape[1]} inputs is square, and this one is {tuple(hessian.shape)}. Collect it "
            "from the same layer."
        )
    if not (weight.isfinite().all() and hessian.isfinite().all()):
        raise CourseError("The weight or the Hessian holds NaN or infinity: find out where the model's numbers broke.")


def _inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper triangular U with U^T U = (H + damping mean(diag H) I)^-1, in float64."""
    hessian = hessian.double().clone()
    diagonal = hessian.diagonal()  # a view
    diagonal[diagonal == 0] = 1  # an input that is always zero: its weight may be anything
    diagonal += damping * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


def output_error(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """||X W^T - X Q^T||^2 / ||X W^T||^2: the share of the output's power that is wrong.

    Args:
        weight: W, (out, in).
        quantized: Q, dequantised, (out, in).
        hessian: X^T X, (in, in).

    Returns:
        The share, 0 for equal weights.
    """
    w, h = weight.detach().double(), hessian.double()
    d = w - quantized.detach().double()
    return float(((d @ h) * d).sum() / ((w @ h) * w).sum())


@torch.no_grad()
def collect_hessians(model: Any, batches: Iterable[Tensor], targets: Sequence[str]) -> dict[str, Tensor]:
    """X^T X of layers' inputs while the model reads text in evaluation mode. Nothing but the sums is kept.

    Args:
        model: any causal language model. It is not changed.
        batches: token ids, (batch, time) each.
        targets: names or ends of names of linear layers, as for `inject_lora`.

    Returns:
        For each layer by its name, float32 (in, in).
    """
    layers = select_layers(model, targets) if targets else linear_layers(model)
    sums: dict[str, Tensor] = {}
    with evaluating(model), _watching(layers, sums):
        for batch in batches:
            model(torch.as_tensor(batch).long().to(device_of(model)))
    return sums


def compare_rounding(
    weights: Mapping[str, Tensor],
    calibration: Mapping[str, Tensor],
    held_out: Mapping[str, Tensor],
    quant_type: str = "nf4",
    block_size: int = 64,
) -> dict[str, dict[str, float]]:
    """The output errors of round-to-nearest and of GPTQ, on the inputs of calibration and on others.

    Args:
        weights: (out, in) each, by name.
        calibration: X^T X of the inputs that GPTQ sees, by the same names.
        held_out: X^T X of inputs that it does not see.
        quant_type: as for `gptq`.
        block_size: as for `gptq`.

    Returns:
        For each name `nearest` and `gptq` on other inputs, and `nearest_calibration` and `gptq_calibration`.
    """
    rows = {}
    for name, weight in weights.items():
        nearest = quantize_4bit(weight, quant_type, block_size).dequantize()
        calibrated = gptq(weight, calibration[name], quant_type, block_size).dequantize()
        rows[name] = {
            "nearest": output_error(weight, nearest, held_out[name]),
            "gptq": output_error(weight, calibrated, held_out[name]),
            "nearest_calibration": output_error(weight, nearest, calibration[name]),
            "gptq_calibration": output_error(weight, calibrated, calibration[name]),
        }
    return rows


@contextmanager
def _watching(layers: dict[str, nn.Module], sums: dict[str, Tensor]) -> Iterator[None]:
    """Inside, every call of a layer adds X^T X of its input to `sums`."""

    def hook_of(name: str) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).float()  # (..., in) -> (n, in)
            sums[name] = x.T @ x if name not in sums else sums[name].addmm_(x.T, x)

        return add

    handles = [layer.register_forward_pre_hook(hook_of(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
