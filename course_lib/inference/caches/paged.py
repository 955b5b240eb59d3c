"""A paged cache: keys and values in the slots of a pool, with a block table for each row (see `pages`)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from course_lib.errors import CourseError
from course_lib.inference.caches.base import Cache, length_after_crop
from course_lib.inference.caches.pages import BlockTable, PagePool


class PagedCache(Cache):
    """Keeps the keys and values of all rows in one pool of pages. Padding takes no slot.

    For attention, the slots of a row are gathered in the order of the text, and shorter rows are aligned on the right.
    A GPU kernel would read the pages in place; on a CPU the copy costs little beside the matrix products. With
    `max_pages`, a row that needs one more page drops its oldest one. The model then forgets the beginning, and with it
    the attention sinks, which `SinkCache` keeps. Positions remain those of the text.

    Args:
        page_size: the number of tokens in a page.
        max_pages: the largest number of pages of one row; None for no limit.
        pages: the number of pages of the pool; None for a pool that doubles when it is full.

    Raises:
        CourseError: a size is below 1.
    """

    def __init__(self, page_size: int = 16, max_pages: int | None = None, pages: int | None = None):
        super().__init__()
        if page_size < 1 or (max_pages is not None and max_pages < 1):
            raise CourseError(
                f"A paged cache needs page_size >= 1 and max_pages >= 1, not {page_size} and {max_pages}."
            )
        self.page_size, self.max_pages, self.grows = page_size, max_pages, pages is None
        self.pool = PagePool(pages or 16, page_size, self._copy_page)
        self.tables: list[BlockTable] = []
        self._slots: dict[int, tuple[Tensor, Tensor]] = {}  # by layer, (pages * page_size, K, D) each
        self._columns = self._new = 0  # keys of the widest row, and new tokens, in the pass that has begun
        self._read = self._write = self._source = torch.zeros(0, dtype=torch.long)
        self._begun = False
        self.longest_block = None if max_pages is None else page_size
        self.is_croppable = max_pages is None

    def begin(self, mask: Tensor | None, positions: Tensor) -> tuple[Tensor | None, Tensor]:
        """Take slots for the new tokens, and evict pages of rows that have too many.

        Args:
            mask: as for `Cache.begin`.
            positions: the positions of the new tokens, (batch, time).

        Returns:
            The mask over the gathered rows, or None if all rows are equally long; and the positions, unchanged.

        Raises:
            OutOfPages: the pool is full, and its number of pages is fixed.
        """
        rows, time = positions.shape
        if not self.tables:
            self.tables = [BlockTable() for _ in range(rows)]
        if len(self.tables) != rows:
            raise CourseError(
                f"This cache holds {len(self.tables)} rows and was given {rows}: make a new cache for another batch."
            )
        real = torch.ones(rows, time, dtype=torch.bool) if mask is None else mask[:, -time:].bool().cpu()
        counts = real.sum(dim=1).tolist()
        written = [slot for table, count in zip(self.tables, counts, strict=True) for slot in self._add(table, count)]
        self._plan(written, real, positions.device)
        self._begun = True
        lengths = torch.tensor([table.length for table in self.tables], device=positions.device)
        # (B, columns): the rows are flush right, so the first columns of a shorter one hold nothing
        seen = torch.arange(self._columns, device=positions.device) >= (self._columns - lengths)[:, None]
        return (None if bool(seen.all()) else seen.long()), positions

    def _add(self, table: BlockTable, tokens: int) -> list[int]:
        """Slots for `tokens` more tokens of a row, after evicting what is too much."""
        if self.max_pages is not None:
            if tokens > self.max_pages * self.page_size:
                raise CourseError(
                    f"{tokens} tokens at once do not fit into {self.max_pages} pages of {self.page_size}: "
                    "bring them in parts."
                )
            while table.length + tokens > self.max_pages * self.page_size:
                self.pool.drop_first(table)
        while self.grows and self.pool.pages_needed(table, tokens) > self.pool.free_pages:
            self._grow()
        return self.pool.append(table, tokens)

    def _plan(self, written: list[int], real: Tensor, device: torch.device) -> None:
        """Index tensors for `update`: the same ones serve every layer."""
        self._new = real.shape[1]
        self._columns = max(self._new, max(table.length for table in self.tables))
        self._write = torch.tensor(written, dtype=torch.long, device=device)
        self._source = real.flatten().nonzero().squeeze(1).to(device)  # of B * T new tokens, those that are none
        # Slot 0 stands for nothing where a row is shorter than the widest: it is masked.
        self._read = torch.zeros(len(self.tables), self._columns, dtype=torch.long, device=device)
        places = torch.arange(self.page_size, device=device)
        for row, table in zip(self._read, self.tables, strict=True):
            pages = torch.tensor(table.pages, dtype=torch.long, device=device)
            slots = (pages[:, None] * self.page_size + places).flatten()[: table.length]  # in the text's order
            row[self._columns - table.length :] = slots

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many columns precede the new tokens of a pass: those of the widest row."""
        if self._begun:
            return self._columns - self._new
        return max((table.length for table in self.tables), default=0)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Write the new tokens into their slots, and gather the slots of each row.

        Args:
            keys: (batch, kv_heads, time, head_dim).
            values: like keys.
            layer: the number of the layer.

        Returns:
            Keys and values, (batch, kv_heads, columns, head_dim) each.
        """
        if layer == 0:
            if not self._begun:  # somebody else's loop, without padding
                self.begin(None, torch.zeros(keys.shape[0], keys.shape[2], device=keys.device))
            self._begun = False
        return self._store(keys, values, layer, 0)

    def _store(self, keys: Tensor, values: Tensor, layer: int, start: int) -> tuple[Tensor, Tensor]:
        slots = len(self.pool.references) * self.page_size
        if layer not in self._slots:
            _, heads, _, width = keys.shape
            self._slots[layer] = keys.new_zeros(slots, heads, width), values.new_zeros(slots, heads, width)
        gathered = []
        for new, store in zip((keys, values), self._slots[layer], strict=True):
            new = new.transpose(1, 2).flatten(0, 1)  # (B * T, K, D)
            store.index_copy_(0, self._write, new.index_select(0, self._source))
            gathered.append(store[self._read].transpose(1, 2))  # (B, columns, K, D) -> (B, K, columns, D)
        return gathered[0], gathered[1]

    def _grow(self) -> None:
        """Twice as many pages."""
        self.pool.grow()
        for layer, pair in self._slots.items():
            keys, values = (torch.cat([store, torch.zeros_like(store)]) for store in pair)
            self._slots[layer] = keys, values

    def _copy_page(self, source: int, target: int) -> None:
        size = self.page_size
        for pair in self._slots.values():
            for store in pair:
                store[target * size : (target + 1) * size] = store[source * size : (source + 1) * size]

    def fork(self, rows: int) -> None:
        """Turn the single row of the cache into `rows` rows that share its pages."""
        if len(self.tables) != 1:
            raise CourseError(f"Only a cache of one row can be forked; this one holds {len(self.tables)}.")
        self.tables += [self.pool.fork(self.tables[0]) for _ in range(rows - 1)]

    def reset(self) -> None:
        """Free the pages of all rows."""
        for table in self.tables:
            self.pool.free(table)
        self.tables, self._begun = [], False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i go on with the text of row `beam_idx[i]`. Rows that go on with the same text share its pages."""
        before = self.tables
        chosen = torch.arange(len(before))[beam_idx.cpu()].tolist()
        self.tables = [self.pool.fork(before[row]) for row in chosen]
        for table in before:
            self.pool.free(table)

    def _rows(self) -> int:
        return len(self.tables)

    def crop(self, length: int) -> None:
        """Forget the columns after the first `length` of the widest row, and as many tokens in every row.

        Args:
            length: as for `Cache.crop`.
        """
        excess = self.get_seq_length() - length_after_crop(self.get_seq_length(), length)
        for table in self.tables:
            self.pool.crop(table, max(table.length - excess, 0))

    def free(self, row: int) -> None:
        """Free the pages of a row that has ended."""
        self.pool.free(self.tables[row])

    def block_tables(self) -> list[list[int]]:
        """The pages of each row, for a picture."""
        return [list(table.pages) for table in self.tables]

    def tensors(self) -> Iterable[Tensor]:
        """The slots of every layer, whether used or not."""
        return [tensor for pair in self._slots.values() for tensor in pair]
