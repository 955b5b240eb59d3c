"""The functions of a transformer, each as one node of the graph with its gradient worked out by hand.

They could be put together from Tensor's operations. One node instead of six saves the memory and the time of the five
arrays between. In the formulas g is dL/dy, the gradient of the loss with respect to the function's result.

Checked against central differences and torch in tests/scratch/test_tensor.py.
"""

import numpy as np

from course_lib.scratch.tensor import Tensor

IGNORE = -100  # a label that is not trained on


def softmax(x: Tensor) -> Tensor:
    """p = exp(x) / sum exp(x) over the last axis; the shape stays. dL/dx = p (g - sum(g p))."""
    p = _softmax(x.data)

    def send_back(g: np.ndarray) -> None:
        """dp_i/dx_j = p_i (1[i = j] - p_j): raising one x lowers the share of all others, hence the sum."""
        gp = g * p
        x.accumulate(gp - p * gp.sum(axis=-1, keepdims=True))

    return Tensor.result(p, (x,), send_back)


def log_softmax(x: Tensor) -> Tensor:
    """x - log sum exp(x) over the last axis; the shape stays. dL/dx = g - p sum(g), with p = softmax(x)."""
    value = _log_softmax(x.data)
    return Tensor.result(value, (x,), lambda g: x.accumulate(g - np.exp(value) * g.sum(axis=-1, keepdims=True)))


def cross_entropy(logits: Tensor, labels: np.ndarray, ignore_index: int = IGNORE) -> Tensor:
    """Mean of -log p[label] over the labels that are not `ignore_index`. dL/dlogits = (p - onehot) / count.

    Args:
        logits: (..., classes).
        labels: integers (...), the class that is right at each place.
        ignore_index: the label of places that do not count.

    Returns:
        A single number, in nats.

    Raises:
        ValueError: the shapes do not fit, a label is outside the classes, or every label is ignored.

    Example:
        >>> logits = Tensor(np.zeros((1, 4)), requires_grad=True)
        >>> loss = cross_entropy(logits, np.array([2]))
        >>> loss.backward()
        >>> logits.grad.tolist()  # p - onehot
        [[0.25, 0.25, -0.75, 0.25]]
    """
    classes = logits.shape[-1]
    labels = np.asarray(labels)
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"labels have shape {labels.shape}, and logits of shape {logits.shape} need {logits.shape[:-1]}."
        )
    # All leading axes fold into rows. Only the rows that count go through the softmax, over what may be many classes.
    rows = np.flatnonzero(labels.reshape(-1) != ignore_index)
    wanted = labels.reshape(-1)[rows]
    if not len(rows):
        raise ValueError(f"Every label is {ignore_index}: there is nothing to train on.")
    if wanted.min() < 0 or wanted.max() >= classes:
        bad = wanted[(wanted < 0) | (wanted >= classes)][0]
        raise ValueError(f"The label {bad} is outside the {classes} classes (0 to {classes - 1}).")

    log_p = _log_softmax(logits.data.reshape(-1, classes)[rows])  # (rows that count, classes)

    def send_back(g: np.ndarray) -> None:
        """(softmax - onehot(label)) / (number of rows that count); 0 in the other rows."""
        gradient = np.exp(log_p)
        gradient[np.arange(len(rows)), wanted] -= 1
        whole = np.zeros((labels.size, classes), dtype=logits.dtype)
        whole[rows] = gradient * (g / len(rows))
        logits.accumulate(whole.reshape(logits.shape))

    loss = -log_p[np.arange(len(rows)), wanted].mean()
    return Tensor.result(np.asarray(loss, dtype=logits.dtype), (logits,), send_back)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis (Ba et al. 2016, arXiv:1607.06450).

    Args:
        x: (..., width).
        weight: (width,), the learned scale.
        bias: (width,), the learned shift.
        eps: keeps the division finite where all elements are equal.

    Returns:
        (..., width).
    """
    mean = x.data.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(x.data.var(axis=-1, keepdims=True) + eps)
    normal = (x.data - mean) * inverse

    def send_back(g: np.ndarray) -> None:
        """With h = g weight and n the normalised x: (h - mean(h) - n mean(h n)) / sqrt(variance + eps) for x.

        The two means are subtracted because x also moves its own mean and variance.
        """
        weight.accumulate(g * normal)
        bias.accumulate(g)
        h = g * weight.data
        h_mean = h.mean(axis=-1, keepdims=True)
        x.accumulate(inverse * (h - h_mean - normal * (h * normal).mean(axis=-1, keepdims=True)))

    return Tensor.result(normal * weight.data + bias.data, (x, weight, bias), send_back)


def gelu(x: Tensor) -> Tensor:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), element by element (Hendrycks & Gimpel 2016, arXiv:1606.08415).

    This is the approximation that GPT-2 was trained with. The exact function has the normal distribution for the tanh.
    """
    c = np.sqrt(2 / np.pi).astype(x.dtype)
    square = x.data * x.data
    t = np.tanh(c * x.data * (1 + 0.044715 * square))

    def send_back(g: np.ndarray) -> None:
        """The product rule: the first term differentiates x, the second the tanh (tanh' = 1 - tanh^2)."""
        slope = 0.5 * (1 + t) + 0.5 * x.data * (1 - t * t) * c * (1 + 3 * 0.044715 * square)
        x.accumulate(g * slope)

    return Tensor.result(0.5 * x.data * (1 + t), (x,), send_back)


def dropout(x: Tensor, p: float, rng: np.random.Generator) -> Tensor:
    """Zero each element with probability `p` and scale the others by 1 / (1 - p), so that the mean stays.

    Args:
        x: any shape.
        p: at least 0 and below 1.
        rng: decides which elements are zeroed.

    Returns:
        The shape of x; x itself where p is 0.

    Raises:
        ValueError: p is outside its range.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout p={p}: a probability of at least 0 and below 1.")
    if p == 0:
        return x
    return x * ((rng.random(x.shape) >= p).astype(x.dtype) / (1 - p))


def embedding(table: Tensor, ids: np.ndarray) -> Tensor:
    """Look up a row of the table for each id.

    Args:
        table: (rows, width).
        ids: integers (...).

    Returns:
        (..., width): the shape of the ids and one more axis.

    Raises:
        ValueError: the ids are not integers, or one lies outside the table. NumPy would take a negative one from
            the end.
    """
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise ValueError(f"ids are {ids.dtype}: they must be integers.")
    if ids.size and (ids.min() < 0 or ids.max() >= len(table)):
        bad = ids[(ids < 0) | (ids >= len(table))].flat[0]
        raise ValueError(f"The id {bad} is outside the vocabulary of {len(table)} (0 to {len(table) - 1}).")
    return table[ids]


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))  # the ratio stays, and exp cannot overflow
    return e / e.sum(axis=-1, keepdims=True)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
