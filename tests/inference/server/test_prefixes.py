"""Pages that requests share: found again, kept while there is room, never given to the wrong one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.inference.caches import OutOfPages
from course_lib.inference.server.prefixes import Held, SharedPages

TEXT = list(range(20))


def read(pages, tokens, adapter=None):
    """A request that reads all its tokens, and how many of them it took over."""
    held = Held(adapter)
    shared = pages.take_known(held, tokens)
    pages.append(held, len(tokens) - shared)
    pages.make_known(held, tokens)
    return held, shared


def test_full_pages_are_shared_and_the_last_token_is_left():
    pages = SharedPages(20, 4)
    first, _ = read(pages, TEXT[:11])
    second, shared = read(pages, [*TEXT[:8], 90, 91])
    assert shared == 8
    assert first.table.pages[:2] == second.table.pages[:2]
    third, shared = read(pages, TEXT[:8])
    assert shared == 4  # the logits after the eighth token are needed, so it is read
    pages.check([first, second, third])


def test_another_adapter_or_another_beginning_shares_nothing():
    pages = SharedPages(20, 4)
    read(pages, TEXT)
    assert read(pages, TEXT, "pirate")[1] == 0
    assert read(pages, [90, *TEXT[1:]])[1] == 0
    assert read(pages, TEXT[4:])[1] == 0  # the same page's tokens, at another place
    assert read(pages, TEXT, "pirate")[1] == 16


def test_kept_pages_go_when_room_is_needed_the_last_used_one_last():
    pages = SharedPages(6, 4)
    for text in (TEXT[:8], [90] * 8):
        pages.release(read(pages, text)[0])
    assert (pages.kept, pages.pool.free_pages, pages.available) == (4, 2, 6)
    pages.release(read(pages, TEXT[:8])[0])  # used again: now the other one's turn comes first
    held, _ = read(pages, [80] * 16)
    pages.release(held)
    assert read(pages, [90] * 9)[1] == 0
    pages.drop_kept()
    assert pages.available == 6 - 3  # what the last request holds


def test_the_end_of_a_prefix_goes_before_its_beginning():
    pages = SharedPages(5, 4)
    pages.release(read(pages, TEXT[:17])[0])  # four full pages are kept
    pages.release(read(pages, [90] * 8)[0])
    assert read(pages, TEXT[:17])[1] == 12


def test_pages_of_running_requests_are_not_evicted():
    pages = SharedPages(4, 4)
    held, _ = read(pages, TEXT[:16])
    with pytest.raises(OutOfPages):
        read(pages, [90])
    pages.check([held])


@given(st.lists(st.tuples(st.sampled_from("read release drop".split()), st.integers(0, 30)), max_size=40))
def test_invariants_under_random_use(actions):
    pages, running, texts = SharedPages(12, 4), [], [TEXT, [*TEXT[:9], 90, 91, 92], [80] * 14]
    for action, number in actions:
        if action == "read":
            held = Held(("x", None)[number % 2])
            tokens = texts[number % 3][: 1 + number % 17]
            pages.take_known(held, tokens)
            try:
                pages.append(held, len(tokens) - held.table.length)
                pages.make_known(held, tokens)
                running.append(held)
            except OutOfPages:
                pages.release(held)
        elif action == "release" and running:
            pages.release(running.pop(number % len(running)))
        elif action == "drop":
            pages.drop_kept()
        pages.check(running)
    for held in running:
        pages.release(held)
    pages.drop_kept()
    assert pages.pool.free_pages == 12
