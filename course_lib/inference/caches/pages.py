"""Pages of a cache: who holds which, and what is free (PagedAttention, Kwon et al. 2023, arXiv:2309.06180, section 4).

A row's tokens lie in pages of `page_size` slots, which need not be neighbours; its block table lists them in order.
Rows with a common beginning share pages, and a page is copied when a row that shares it is about to write to it. Here
is the bookkeeping alone, plain Python; the keys and values lie in `paged.PagedCache`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from course_lib.errors import CourseError


class OutOfPages(CourseError):
    """No page is free: a scheduler waits or sets a row back, anybody else makes a larger pool."""


@dataclass
class BlockTable:
    """One row's pages.

    Attributes:
        pages: their numbers, in the order of the text.
        length: the tokens in them.
        dropped: the tokens that were evicted from the front.
    """

    pages: list[int] = field(default_factory=list)
    length: int = 0
    dropped: int = 0


class PagePool:
    """All pages: a free list, and for each page how many block tables it is in.

    Args:
        pages: how many there are.
        page_size: the slots of each, one a token.
        on_copy: called with (from, to) when a shared page is copied, so that what lies in it can be copied too.

    Raises:
        CourseError: there is no page, or no slot in it.
    """

    def __init__(self, pages: int, page_size: int, on_copy: Callable[[int, int], None] | None = None):
        if pages < 1 or page_size < 1:
            raise CourseError(
                f"A pool of {pages} pages of {page_size} slots holds nothing: both have to be at least 1."
            )
        self.page_size, self.on_copy = page_size, on_copy
        self.references = [0] * pages
        self._free = list(range(pages - 1, -1, -1))  # a stack: the page that was freed last is still in the CPU's cache

    @property
    def free_pages(self) -> int:
        """How many pages nobody holds."""
        return len(self._free)

    @property
    def used_pages(self) -> int:
        """How many pages somebody holds."""
        return len(self.references) - len(self._free)

    def grow(self) -> None:
        """Twice as many pages; the old ones keep their numbers."""
        old = len(self.references)
        self.references += [0] * old
        self._free[:0] = range(2 * old - 1, old - 1, -1)  # under the free pages that there are

    def pages_needed(self, table: BlockTable, tokens: int) -> int:
        """How many free pages `append` would take.

        Args:
            table: the row's pages.
            tokens: how many are to be added.

        Returns:
            The new pages, and one for a shared page that would be copied.
        """
        if tokens == 0:
            return 0
        new = -(-(table.length + tokens) // self.page_size) - len(table.pages)
        copies = table.length % self.page_size != 0 and self.references[table.pages[-1]] > 1
        return new + copies

    def append(self, table: BlockTable, tokens: int) -> list[int]:
        """Make room for `tokens` more tokens at the end of a row.

        A last page that is shared and not full is copied first ("copy on write"), since the others still read it.

        Args:
            table: the row's pages, which are changed.
            tokens: how many are to be added.

        Returns:
            Their slots, page * page_size + place in the page.

        Raises:
            OutOfPages: there are not enough free pages. Then nothing has changed.
        """
        if (needed := self.pages_needed(table, tokens)) > self.free_pages:
            raise OutOfPages(
                f"{tokens} more tokens need {needed} pages of {self.page_size}, and {self.free_pages} are free. "
                "Free a row, or make the pool larger."
            )
        if tokens and table.length % self.page_size and self.references[table.pages[-1]] > 1:
            self._copy_last(table)
        start, table.length = table.length, table.length + tokens
        while len(table.pages) * self.page_size < table.length:
            table.pages.append(self._take())
        return [self.slot(table, place) for place in range(start, table.length)]

    def slot(self, table: BlockTable, place: int) -> int:
        """Where the token lies.

        Args:
            table: the row's pages.
            place: the token's number among those that the row holds.

        Returns:
            page * page_size + place in the page.
        """
        return table.pages[place // self.page_size] * self.page_size + place % self.page_size

    def _copy_last(self, table: BlockTable) -> None:
        shared, own = table.pages[-1], self._take()
        if self.on_copy is not None:
            self.on_copy(shared, own)
        table.pages[-1] = own
        self._release(shared)

    def fork(self, table: BlockTable) -> BlockTable:
        """A second row with the same beginning: the pages are shared, and nothing is copied."""
        for page in table.pages:
            self.references[page] += 1
        return BlockTable(list(table.pages), table.length, table.dropped)

    def share(self, table: BlockTable, page: int) -> None:
        """Put a full page that somebody holds at the end of another row too. Nothing is copied.

        Args:
            table: the row's pages, all of them full; it is changed.
            page: the page's number.
        """
        assert table.length == len(table.pages) * self.page_size, "the row's last page is not full"
        assert self.references[page] > 0, "nobody holds the page"
        self.references[page] += 1
        table.pages.append(page)
        table.length += self.page_size

    def drop_first(self, table: BlockTable) -> None:
        """Evict the row's oldest page. Other rows that share it keep it."""
        self._release(table.pages.pop(0))
        gone = min(self.page_size, table.length)
        table.length -= gone
        table.dropped += gone

    def crop(self, table: BlockTable, length: int) -> None:
        """Forget the row's tokens after the first `length`, and give back the pages that are empty then.

        Args:
            table: the row's pages.
            length: how many of its tokens stay.
        """
        table.length = min(table.length, length)
        while len(table.pages) * self.page_size >= table.length + self.page_size:
            self._release(table.pages.pop())

    def free(self, table: BlockTable) -> None:
        """Give back all pages of a row, which has ended."""
        while table.pages:
            self._release(table.pages.pop())
        table.length = 0

    def _take(self) -> int:
        page = self._free.pop()
        self.references[page] = 1
        return page

    def _release(self, page: int) -> None:
        self.references[page] -= 1
        if self.references[page] == 0:
            self._free.append(page)

    def check(self, tables: Sequence[BlockTable]) -> None:
        """The invariants, for tests: `tables` are all the rows there are.

        Raises:
            AssertionError: a page is held and free at once, counted wrongly or lost; or a row has too many pages or too
                few.
        """
        held = [0] * len(self.references)
        for table in tables:
            for page in table.pages:
                held[page] += 1
            full = len(table.pages) * self.page_size
            assert full - self.page_size < table.length <= full, "a row has a page too many or too few"
            assert len(set(table.pages)) == len(table.pages), "a row has a page twice"
        assert held == self.references, "a reference count is wrong"
        assert sorted(self._free) == [page for page, count in enumerate(held) if count == 0], "a page is lost"


def useful_share(lengths: Sequence[int], *, reserved: int | None = None, page_size: int | None = None) -> float:
    """The share of a cache's memory that holds a token.

    A contiguous cache sets `reserved` slots aside for each row, since it cannot know how long the row will be; a paged
    one wastes the end of each row's last page alone. Published: 20 to 38 % contiguous, 96 % paged (arXiv:2309.06180,
    figure 2).

    Args:
        lengths: the tokens of each row.
        reserved: slots a row, for a contiguous cache.
        page_size: slots a page, for a paged one.

    Returns:
        Useful slots / all slots.

    Raises:
        CourseError: both or neither of `reserved` and `page_size` are given, or a row is longer than `reserved`.
    """
    if (reserved is None) == (page_size is None):
        raise CourseError("useful_share takes `reserved` for a contiguous cache or `page_size` for a paged one.")
    if reserved is not None:
        if max(lengths) > reserved:
            raise CourseError(f"A row of {max(lengths)} tokens does not fit into {reserved} reserved slots.")
        return sum(lengths) / (reserved * len(lengths))
    assert page_size is not None
    return sum(lengths) / sum(-(-length // page_size) * page_size for length in lengths)
