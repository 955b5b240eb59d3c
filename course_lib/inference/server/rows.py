"""A pass over token rows: what the engine computes in one step. Tokens of prompts and new tokens are treated alike.

A row is one token of one request. A pass takes a list of rows, whichever requests they belong to:

    x = x + attention(norm(x)); x = x + mlp(norm(x))      x: (R, C), R tokens

**A batch changes nothing.** A float32 product with one row adds its terms in another order than one with eight, so the
answer to a request could depend on who else is served. Here a row's numbers depend on the row alone:

- Every product in float32 and bfloat16 has a multiple of `BLOCK` rows; a pass is padded to it. On some processors
  the kernels give other bits for several blocks at once. The model tests this when it is made, and then computes a
  longer pass block by block. The kernels for eight and four bits compute each row by itself and need no padding.
- A row attends by itself, as a batch of its own heads, to the first tokens of its request, padded to the next multiple
  of `COLUMNS`. This number follows from the token's position alone, and not from what the other rows need.
- The adapters are one product of a fixed shape (see `mixed`).

So the keys and values of a token have the same bits whether it is computed alone or in a batch, as a part of a prompt
or as a new token. Pages can therefore be shared without changing an answer. tests/inference/server/test_rows.py
compares them bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.inference.prepared import PreparedDecoder, Product, normalise
from course_lib.inference.server.mixed import Stack
from course_lib.rounding import ceil_div

BLOCK = 8  # a product has a multiple of this many rows
MOST = 32  # and at most this many
COLUMNS = 64  # a row attends to a multiple of this many slots


@dataclass(frozen=True)
class Chunk:
    """The tokens of one request that are read in one pass.

    Attributes:
        tokens: their ids.
        start: the position of the first one.
        slots: for each token, the slot of the store where its keys and values go.
        pages: all pages of the request, those of these tokens included.
        adapter: the number of the adapter; -1 stands for the base.
        wanted: whether the logits after the last token are needed.
    """

    tokens: Sequence[int]
    start: int
    slots: Sequence[int]
    pages: Sequence[int]
    adapter: int = -1
    wanted: bool = True


@dataclass(frozen=True)
class _Group:
    """Rows that attend in one call: one token each of several requests, or several tokens of one request.

    Attributes:
        stop: the row after the group's last one.
        pages: the pages that the rows attend to, (requests, columns / page_size), flattened.
        columns: how many slots each row attends to.
        bias: 0 where a row may look and -inf elsewhere, (rows, 1, 1, columns).
    """

    stop: int
    pages: Tensor
    columns: int
    bias: Tensor


class RowModel:
    """A prepared model whose keys and values are kept in one store of pages.

    Args:
        model: the model, as `prepare` returns it.
        pages: how many pages the store has.
        page_size: how many tokens a page holds.
        stacks: for each block of the model, the adapters of each of its products; see `mixed`.
    """

    def __init__(
        self, model: PreparedDecoder, pages: int, page_size: int, stacks: Sequence[dict[str, Stack]] | None = None
    ):
        self.model, self.page_size, self.nowhere = model, page_size, pages
        self.stacks = stacks or [{} for _ in model.layers]
        # Elementwise kernels take vectors of 32 numbers. What is left over is computed by another function, whose bits
        # may differ.
        whole = all(size % 32 == 0 for size in (model.config.hidden_size, model.config.intermediate_size))
        self.row_by_row = model.weights in ("int8", "int4") and whole
        self.block = MOST if _blocks_agree(model) else BLOCK
        # A row attends to whole pages, so the columns are a multiple of both.
        self.columns = ceil_div(COLUMNS, page_size) * page_size
        # The store has one page more than requests can use: padding is written there, and what lies beyond a row's
        # own pages is read from there. A layer's page is contiguous in memory:
        # (layers, pages + 1, page_size, keys and values, K, D)
        self.store = torch.zeros(len(model.layers), pages + 1, page_size, 2, model.kv_heads, model.head_dim)

    @torch.inference_mode()
    def read(self, chunks: Sequence[Chunk]) -> Tensor:
        """Compute the keys and values of all tokens in the chunks, and write them to their slots.

        Args:
            chunks: what to read, with at most one chunk for each request.

        Returns:
            The logits after the last token of each chunk that wants them, (wanted, vocabulary).
        """
        chunks_of_groups = _grouped(chunks, self.columns)
        groups, order = self._plan(chunks, chunks_of_groups)
        # If no row has an adapter, the adapters would only add zeros, so they are left out.
        mixed = any(chunk.adapter >= 0 for chunk in chunks)
        block = 1 if self.row_by_row and not mixed else BLOCK
        padding = -len(order) % block
        tokens = [chunks[c].tokens[i] for c, i in order] + [0] * padding
        positions = [chunks[c].start + i for c, i in order] + [0] * padding
        nowhere = self.nowhere * self.page_size
        slots = torch.tensor([chunks[c].slots[i] for c, i in order] + [nowhere] * padding)  # (R,)
        adapters = torch.tensor([chunks[c].adapter for c, _ in order] + [-1] * padding)
        turns = self.model.turns(torch.tensor(positions)[:, None])  # (R, 1, 1, D / 2)
        x = F.embedding(torch.tensor(tokens), self.model.embedding)  # (R, C)
        for number in range(len(self.model.layers)):
            x = self._layer(number, x, turns, slots, groups, adapters if mixed else None)
        place = {row: at for at, row in enumerate(order)}
        last = [place[c, len(chunk.tokens) - 1] for c, chunk in enumerate(chunks) if chunk.wanted]
        if not last:
            return torch.zeros(0, len(self.model.embedding))
        x = x[torch.tensor(last + [0] * (-len(last) % block))]  # (wanted, padded, C)
        return self._multiply(self.model.head, normalise(x, self.model.norm_floor))[: len(last)]

    def _plan(
        self, chunks: Sequence[Chunk], parts: dict[tuple[int, int], list[tuple[int, int]]]
    ) -> tuple[list[_Group], list[tuple[int, int]]]:
        """The groups of rows that attend together, and all rows (chunk, place in it) in the order of the groups.

        Args:
            chunks: what the pass reads.
            parts: the rows of each group; see `_grouped`.
        """
        groups, order = [], []
        for (columns, _), rows in parts.items():
            order += rows
            requests = list(dict.fromkeys(c for c, _ in rows))  # one request, or a different one for each row
            wanted = columns // self.page_size
            pages = [(list(chunks[c].pages) + [self.nowhere] * wanted)[:wanted] for c in requests]
            seen = torch.tensor([chunks[c].start + i for c, i in rows])[:, None]  # the last position that a row sees
            bias = torch.zeros(len(rows), columns).masked_fill(torch.arange(columns) > seen, -torch.inf)
            groups.append(_Group(len(order), torch.tensor(pages).flatten(), columns, bias[:, None, None]))
        return groups, order

    def _layer(
        self, number: int, x: Tensor, turns: Tensor, slots: Tensor, groups: list[_Group], adapters: Tensor | None
    ) -> Tensor:
        """Apply one block to x (R, C). `adapters` has each row's number (R,), or is None if no row has an adapter."""
        model, layer = self.model, self.model.layers[number]
        stacks = {} if adapters is None else self.stacks[number]
        n = normalise(x, model.norm_floor)
        projected = _adapted(self._multiply(layer.q_k_v, n), n, stacks.get("q_k_v"), adapters)
        projected = projected.view(len(x), -1, model.head_dim)  # (R, H + 2 K, D)
        pairs = torch.view_as_complex(projected[:, : -model.kv_heads].unflatten(-1, (-1, 2)))  # (R, H + K, D / 2)
        q_k = torch.view_as_real(pairs * turns[:, 0]).flatten(-2)  # (R, H + K, D)
        store = self.store[number]  # (pages, page_size, 2, K, D)
        fresh = torch.stack([q_k[:, model.heads :], projected[:, -model.kv_heads :]], dim=1)  # (R, 2, K, D)
        # The next owner of a page multiplies what is left in it by zero, and zero times infinity or NaN would be NaN.
        # This does not save the request that overflowed: its residual stream is NaN too.
        fresh.nan_to_num_(0.0, 0.0, 0.0)
        store.flatten(0, 1).index_copy_(0, slots, fresh)
        mixed = self._attend(q_k[:, : model.heads], store, groups)  # (R, H D)
        x = _adapted(self._multiply(layer.output, mixed, x), mixed, stacks.get("output"), adapters)
        n = normalise(x, model.norm_floor)
        gate, up = _adapted(self._multiply(layer.gate_up, n), n, stacks.get("gate_up"), adapters).chunk(2, dim=-1)
        inner = F.silu(gate) * up  # (R, M)
        return _adapted(self._multiply(layer.down, inner, x), inner, stacks.get("down"), adapters)

    def _multiply(self, product: Product, x: Tensor, total: Tensor | None = None) -> Tensor:
        """x W^T, or total + x W^T, in blocks of as many rows as leave every bit the same; x is (rows, in)."""
        if total is None:
            return torch.cat([product(block) for block in x.split(self.block)])
        blocks = zip(total.split(self.block), x.split(self.block), strict=True)
        return torch.cat([product.added_to(*block) for block in blocks])

    def _attend(self, q: Tensor, store: Tensor, groups: list[_Group]) -> Tensor:
        """Let each row attend to the tokens of its request: queries (R, H, D) to (R, H D). Padding gets zeros."""
        model, start = self.model, 0
        results = q.new_zeros(len(q), model.heads * model.head_dim)
        for group in groups:
            rows = group.stop - start
            kept = store.index_select(0, group.pages).view(-1, group.columns, 2, model.kv_heads, model.head_dim)
            keys, values = kept.permute(2, 0, 3, 1, 4).expand(2, rows, -1, -1, -1)  # (rows, K, columns, D) each
            # The queries that share keys become rows of one product: (rows, H, D) -> (rows, K, H / K, D).
            own = q[start : group.stop].reshape(rows, model.kv_heads, -1, model.head_dim)
            mixed = F.scaled_dot_product_attention(own, keys, values, attn_mask=group.bias)
            results[start : group.stop] = mixed.reshape(rows, -1)
            start = group.stop
        return results


def _grouped(chunks: Sequence[Chunk], columns: int) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Group the rows (chunk, place in it) that can attend in one call.

    Returns:
        The rows by how many columns they attend to, and by their chunk if it has several tokens; -1 stands for all
        chunks of one token.
    """
    parts: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for c, chunk in enumerate(chunks):
        alone = -1 if len(chunk.tokens) == 1 else c
        for i in range(len(chunk.tokens)):
            wanted = ((chunk.start + i) // columns + 1) * columns
            parts.setdefault((wanted, alone), []).append((c, i))
    return parts


@torch.inference_mode()
def _blocks_agree(model: PreparedDecoder) -> bool:
    """Whether the products of the first block, and the head, give the same bits for several blocks as one by one."""
    first, width, generator = model.layers[0], model.config.hidden_size, torch.Generator().manual_seed(0)
    products = [(first.q_k_v, width), (first.gate_up, width), (model.head, width)]
    products += [(first.output, model.heads * model.head_dim), (first.down, model.config.intermediate_size)]
    for product, size in products:
        given = torch.randn(MOST, size, generator=generator)  # (MOST, in)
        alone = torch.cat([product(block) for block in given.split(BLOCK)])
        for rows in range(2 * BLOCK, MOST + 1, BLOCK):
            if not torch.equal(product(given[:rows]), alone[:rows]):
                return False
    return True


def _adapted(y: Tensor, x: Tensor, stack: Stack | None, adapters: Tensor | None) -> Tensor:
    """y plus what the adapter of each row adds, computed in products of `BLOCK` rows."""
    if stack is None or adapters is None:
        return y
    blocks = zip(y.split(BLOCK), x.split(BLOCK), stack.mask(adapters).split(BLOCK), strict=True)
    return torch.cat([stack.added_to(*block) for block in blocks])
