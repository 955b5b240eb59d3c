"""Division of whole numbers, rounded up: how many pages, pieces or rounds it takes."""


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up, in whole numbers.

    Args:
        a: how many things there are.
        b: how many go into one piece, above 0.

    Returns:
        The number of pieces.

    Example:
        >>> ceil_div(8, 4), ceil_div(9, 4)
        (2, 3)
    """
    return -(-a // b)  # // rounds down, so what it gives for -a is minus the number rounded up
