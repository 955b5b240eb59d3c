"""From logits to the next token."""

import torch


def sample(
    logits: torch.Tensor,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw one token for each row.

    Args:
        logits: (batch, vocabulary).
        temperature: 0 takes the likeliest token. Any other number divides the logits: below 1 it makes likely tokens
            likelier, above 1 it makes the choice more even.
        top_p: the draw is restricted to the smallest set of tokens whose probability reaches this number (nucleus
            sampling, Holtzman et al. 2020, arXiv:1904.09751).
        generator: the source of random numbers (default: torch's own).

    Returns:
        Token ids, int64 (batch,).
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)  # (batch, vocabulary)
    if top_p < 1:
        ordered, index = probabilities.sort(dim=-1, descending=True)
        # A token is outside where those before it reach top_p already, so the token that crosses top_p stays in.
        outside = ordered.cumsum(dim=-1) - ordered >= top_p
        # `index` puts the kept probabilities back in their tokens' places; `multinomial` needs no sum of 1.
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(outside, 0.0))
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
