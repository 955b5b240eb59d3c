"""From logits to the next token."""

import torch


def sample(
    logits: torch.Tensor,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw one token a row. logits: (batch, vocabulary). Returns int64 (batch,).

    temperature 0 takes the likeliest token; otherwise logits are divided by it and the draw is restricted to the
    smallest set of tokens whose probability reaches `top_p` (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751).
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1:
        ordered, index = probabilities.sort(dim=-1, descending=True)
        outside = ordered.cumsum(dim=-1) - ordered >= top_p  # the token that crosses top_p stays in
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(outside, 0.0))
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(-1)
