"""One seed for everything that draws random numbers."""

import random


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, so that the same program draws the same numbers.

    torch draws what it draws after `torch.manual_seed(seed)`.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # NumPy takes 32 bits
    torch.manual_seed(seed)
