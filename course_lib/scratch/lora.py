"""LoRA on one linear layer, in NumPy (Hu et al. 2021, arXiv:2106.09685).

Left out: biases, dropout, and an optimiser. Checked against PyTorch's autograd in tests/scratch/test_lora.py.
"""

import numpy as np


class LoRALinear:
    """A frozen weight W with a trainable low-rank change beside it: W' = W + (alpha / rank) B A.

    original_weight: (out_features, in_features); it is not copied and never written to.
    A: (rank, in_features), Kaiming-uniform with a = sqrt(5): uniform in +-1 / sqrt(in_features), as PEFT draws it.
    B: (out_features, rank), zero, so that the layer starts as the base.
    Raises ValueError where the rank is not between 1 and the weight's smaller side.
    """

    def __init__(self, original_weight: np.ndarray, rank: int = 4, alpha: float = 1.0, seed: int = 0):
        if original_weight.ndim != 2:
            raise ValueError(f"original_weight has shape {original_weight.shape}; a linear layer's has two axes.")
        out_features, in_features = original_weight.shape
        if not 1 <= rank <= min(out_features, in_features):
            raise ValueError(
                f"rank {rank} is not possible for a {out_features} x {in_features} weight: "
                f"1 to {min(out_features, in_features)}."
            )
        bound = 1 / np.sqrt(in_features)
        self.original_weight = original_weight
        self.A = np.random.default_rng(seed).uniform(-bound, bound, (rank, in_features))
        self.B = np.zeros((out_features, rank))
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank

    def forward(self, x: np.ndarray) -> np.ndarray:
        """x W^T + (alpha / rank) (x A^T) B^T. x: (..., in_features). Returns (..., out_features)."""
        if x.shape[-1] != self.original_weight.shape[1]:
            raise ValueError(f"x has {x.shape[-1]} features and the layer takes {self.original_weight.shape[1]}.")
        return x @ self.original_weight.T + self.scaling * (x @ self.A.T) @ self.B.T

    def backward(self, x: np.ndarray, grad_output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradients of A and B for the input x, given dL/dy of shape (..., out_features)."""
        x, grad_output = x.reshape(-1, x.shape[-1]), grad_output.reshape(-1, grad_output.shape[-1])
        grad_A = self.scaling * (grad_output @ self.B).T @ x
        grad_B = self.scaling * grad_output.T @ (x @ self.A.T)
        return grad_A, grad_B

    def lora_parameters(self) -> list[np.ndarray]:
        """What is trained: A and B, and nothing else."""
        return [self.A, self.B]

    def merged_weight(self) -> np.ndarray:
        """W + (alpha / rank) B A, shape (out_features, in_features): the layer without the detour."""
        return self.original_weight + self.scaling * self.B @ self.A
