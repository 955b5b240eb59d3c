"""Optimisers, a schedule and gradient clipping; the same updates as torch's (tests/scratch/test_optim.py)."""

import math

import numpy as np

from course_lib.scratch.tensor import Tensor


class Optimizer:
    """Parameters, a learning rate, and a memory of arrays for each parameter.

    A subclass names its arrays in `slots` and says in `updated` how a parameter changes.

    Args:
        parameters: the tensors to train, at least one.
        lr: the learning rate, at least 0. A schedule may change it between steps.

    Raises:
        ValueError: `parameters` is empty, or the learning rate is negative or not finite.
    """

    slots: tuple[str, ...] = ()

    def __init__(self, parameters: list[Tensor], lr: float):
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("An optimiser needs at least one parameter.")
        if not 0 <= lr < math.inf:
            raise ValueError(f"lr={lr}: a learning rate is a number of at least 0.")
        self.lr, self.steps = lr, 0
        self.memory = {slot: [np.zeros_like(p.data) for p in self.parameters] for slot in self.slots}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        self.steps += 1
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                parameter.data = self.updated(index, parameter.data, parameter.grad).astype(parameter.dtype, copy=False)

    def updated(self, index: int, value: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The new value of one parameter.

        Args:
            index: which parameter, for its memory.
            value: its array.
            gradient: of the same shape.

        Returns:
            The new array, of the same shape.

        Raises:
            TypeError: the subclass does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not say how to update a parameter.")


class SGD(Optimizer):
    """v = momentum v + (g + weight_decay w); w = w - lr v. The first v is g + weight_decay w, as torch has it.

    Args:
        parameters: the tensors to train.
        lr: the learning rate.
        momentum: the share of the last velocity that is kept.
        weight_decay: pulls every weight towards 0, as part of the gradient.
    """

    slots = ("velocity",)

    def __init__(self, parameters: list[Tensor], lr: float = 0.01, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(parameters, lr)
        self.momentum, self.weight_decay = momentum, weight_decay

    def updated(self, index: int, value: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """w - lr v with the new velocity v.

        Args:
            index: which parameter, for its velocity.
            value: w.
            gradient: g, of the same shape.

        Returns:
            The new w.
        """
        gradient = gradient + self.weight_decay * value
        velocity = self.momentum * self.memory["velocity"][index] + gradient
        self.memory["velocity"][index] = velocity
        return value - self.lr * velocity


class AdamW(Optimizer):
    """Adam with weight decay apart from the gradient (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2).

    m and v are running means of the gradient and its square, corrected for having started at zero.

    Args:
        parameters: the tensors to train.
        lr: the learning rate: about how far a weight moves in one step.
        betas: the share of m and of v that is kept in each step.
        eps: keeps the division finite where gradients vanish.
        weight_decay: the share of each weight, times lr, that is taken away in each step.

    Raises:
        ValueError: a beta is outside its range, or `Optimizer` refuses the rest.
    """

    slots = ("m", "v")

    def __init__(
        self,
        parameters: list[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(parameters, lr)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas}: each at least 0 and below 1.")
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    def updated(self, index: int, value: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """w (1 - lr weight_decay) - lr m^ / (sqrt(v^) + eps), where m^ and v^ are corrected for their start at zero.

        Args:
            index: which parameter, for its m and v.
            value: w.
            gradient: of the same shape.

        Returns:
            The new w.
        """
        beta1, beta2 = self.betas
        m = beta1 * self.memory["m"][index] + (1 - beta1) * gradient
        v = beta2 * self.memory["v"][index] + (1 - beta2) * gradient**2
        self.memory["m"][index], self.memory["v"][index] = m, v
        # After t steps the weights of a mean that started at 0 sum to 1 - beta^t only. Dividing by that corrects it.
        m_hat, v_hat = m / (1 - beta1**self.steps), v / (1 - beta2**self.steps)
        return value * (1 - self.lr * self.weight_decay) - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


def warmup_cosine(step: int, steps: int, warmup_steps: int = 0, min_lr_ratio: float = 0.1) -> float:
    """The factor of the peak learning rate at one step.

    It rises in a straight line from 1 / warmup_steps to 1, and falls in half a cosine towards `min_lr_ratio`. The
    cosine ends one step behind the last one, also where the warm-up takes all steps and leaves none for it.

    Args:
        step: which step, from 0. The last step of a run is steps - 1.
        steps: how many there are.
        warmup_steps: how many of them rise.
        min_lr_ratio: the factor that the cosine ends at.

    Returns:
        The factor, at most 1.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (steps - warmup_steps) if step < steps else 1.0  # of the way down
    return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def clip_grad_norm(parameters: list[Tensor], max_norm: float) -> float:
    """Scale all gradients together so that their joint norm is at most `max_norm`. Their direction stays.

    Args:
        parameters: the tensors whose `grad` is scaled; those without one are passed over.
        max_norm: the limit.

    Returns:
        The joint norm before: the root of the sum of all squared elements.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients))
    factor = max_norm / (norm + 1e-6)  # torch's guard against a norm of zero
    if factor < 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = parameter.grad * np.asarray(factor, parameter.dtype)
    return norm
