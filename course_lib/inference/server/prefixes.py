"""Pages that requests share: the pool, and full pages that are kept for later requests with the same beginning.

The keys and values of a token depend on the adapter and on all tokens before it. So the key of a full page consists of
its adapter, the page before it and its own tokens. A request with the same key takes the page instead of computing it
(vLLM calls this automatic prefix caching). A page that no request uses is kept until its room is needed; the least
recently used page is dropped first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from course_lib.inference.caches import BlockTable, PagePool

Key = tuple[object, tuple[int, ...]]  # the page before (its number, or the adapter's name for a first page), its tokens


@dataclass
class Held:
    """The part of the cache that one request holds.

    Attributes:
        adapter: the name of the adapter that computes its keys and values; None for the base.
        table: the pages of the request.
        chain: the number under which each of its full pages is known; see `SharedPages`.
    """

    adapter: str | None = None
    table: BlockTable = field(default_factory=BlockTable)
    chain: list[int] = field(default_factory=list)


class SharedPages:
    """A pool of pages, including those that are kept for later requests.

    Args:
        pages: the number of pages.
        page_size: the number of tokens in a page.
    """

    def __init__(self, pages: int, page_size: int):
        self.pool, self.page_size = PagePool(pages, page_size), page_size
        # Each kept page as a row of its own, so that it counts as a holder. The longest unused one comes first.
        self._kept: dict[Key, tuple[int, BlockTable]] = {}
        self._key_of: dict[int, Key] = {}
        self._numbers = count()

    def next_key(self, held: Held, tokens: Sequence[int]) -> Key | None:
        """Under which key the page after the last full one is known; None where the tokens do not fill it.

        Args:
            held: what the request holds.
            tokens: all of the request.

        Returns:
            The key.
        """
        start = len(held.chain) * self.page_size
        own = tuple(tokens[start : start + self.page_size])
        if len(own) < self.page_size:
            return None
        return (held.chain[-1] if held.chain else held.adapter), own

    def take_known(self, held: Held, tokens: Sequence[int]) -> int:
        """Put all known pages that come next at the end of the row.

        The last token is always left to be computed, for the logits after it.

        Args:
            held: what the request holds; it is changed.
            tokens: all of the request.

        Returns:
            How many tokens need not be computed now.
        """
        shared = 0
        while held.table.length == len(held.chain) * self.page_size:  # the row ends with a full page
            key = self.next_key(held, tokens[:-1])
            if key is None or key not in self._kept:
                break
            number, page = self._kept[key]
            self.pool.share(held.table, page.pages[0])
            held.chain.append(number)
            shared += self.page_size
        return shared

    def make_known(self, held: Held, tokens: Sequence[int]) -> None:
        """Let others take the pages of this row that have become full.

        Args:
            held: what the request holds.
            tokens: all of the request; keys and values of the first `held.table.length` are computed.
        """
        while (len(held.chain) + 1) * self.page_size <= held.table.length:
            key = self.next_key(held, tokens)
            assert key is not None
            if key not in self._kept:
                number, page = next(self._numbers), held.table.pages[len(held.chain)]
                self._kept[key] = number, self.pool.fork(BlockTable([page], self.page_size))
                self._key_of[number] = key
            held.chain.append(self._kept[key][0])  # computed twice at the same time: the first one's page is the known

    def append(self, held: Held, tokens: int) -> list[int]:
        """Slots for more tokens, where need be in the place of kept pages.

        Args:
            held: what the request holds; it is changed.
            tokens: how many.

        Returns:
            Their slots.

        Raises:
            OutOfPages: running requests hold the pages.
        """
        while self.pool.pages_needed(held.table, tokens) > self.pool.free_pages and self._evict():
            pass
        return self.pool.append(held.table, tokens)

    def _evict(self) -> bool:
        """Give back the kept page that was not used for longest, of those that no request holds."""
        for key, (_, page) in self._kept.items():
            if self.pool.references[page.pages[0]] == 1:
                self._forget(key)
                return True
        return False

    def _forget(self, key: Key) -> None:
        number, page = self._kept.pop(key)
        del self._key_of[number]
        self.pool.free(page)

    def release(self, held: Held) -> None:
        """Free the pages of a row; those that are kept count as used just now."""
        for number in reversed(held.chain):  # the first page last: it is of use without the others, not they without it
            if number in self._key_of:
                key = self._key_of[number]
                self._kept[key] = self._kept.pop(key)  # now the last one
        self.pool.free(held.table)
        held.chain.clear()

    def drop_kept(self) -> None:
        """Free all kept pages."""
        for key in list(self._kept):
            self._forget(key)

    @property
    def kept(self) -> int:
        """The number of pages that are held only for later requests."""
        return sum(self.pool.references[page.pages[0]] == 1 for _, page in list(self._kept.values()))

    @property
    def available(self) -> int:
        """The number of pages that a request could get without taking them from another request."""
        return self.pool.free_pages + self.kept

    def check(self, held: Sequence[Held]) -> None:
        """Check the invariants, for tests; see `PagePool.check`.

        Args:
            held: the parts that all requests hold.

        Raises:
            AssertionError: an invariant is violated.
        """
        self.pool.check([each.table for each in held] + [page for _, page in self._kept.values()])
        assert self._key_of == {number: key for key, (number, _) in self._kept.items()}
