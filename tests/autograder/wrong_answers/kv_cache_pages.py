"""The second part of the plausible wrong answers to `kv_cache`: pages, sharing, and the memory that they save."""

_MISSING = '-(-length // state["page_size"]) - len(table)'
_NEW = 'new, free = state["free"][:missing], state["free"][missing:]'
_COUNTS = 'counts = [1 if page in new else n for page, n in enumerate(state["counts"])]'
_BACK = 'state["free"] + [page for page in table if counts[page] == 0]'
_NO_PAGE = "            return False, state, []"
_READ = "return pages[table[place // page_size], place % page_size]"
_PAGED = "sum(lengths) / (pages * page_size)"
_PER_SEQUENCE = "sum(n / (-(-n // page_size) * page_size) for n in lengths) / len(lengths)"

PAGES = {
    "append-tokens": {
        "a part of a page is a page": (_MISSING, 'length // state["page_size"] - len(table)'),
        "but a full page needs no other": (_MISSING, 'length // state["page_size"] + 1 - len(table)'),
        "the last page is filled first": (_MISSING, '-(-count // state["page_size"])'),
        "only the missing pages": (f"missing = {_MISSING}", 'missing = -(-length // state["page_size"])'),
        "its tokens before count": (
            'length = state["lengths"].get(name, 0) + count',
            "length = count",
        ),
        "pages come from the front": (
            _NEW,
            'new, free = state["free"][::-1][:missing], state["free"][: len(state["free"]) - missing]',
        ),
        "in order": (_NEW, f"{_NEW}\n    new = new[::-1]"),
        "as they are in the list, not sorted": (
            _NEW,
            'new, free = sorted(state["free"])[:missing], sorted(state["free"])[missing:]',
        ),
        "they are not free any more": (_NEW, 'new, free = state["free"][:missing], state["free"]'),
        "their count is 1": (_COUNTS, 'counts = state["counts"]'),
        "the counts of the others stay": (
            _COUNTS,
            "counts = [int(page in new) for page in range(len(state['counts']))]",
        ),
        "nor do the older pages' counts grow": (
            _COUNTS,
            'counts = [n + (page in table + new) for page, n in enumerate(state["counts"])]',
        ),
        "behind the pages before": ("{name: table + new}", "{name: new + table}"),
        "which it keeps": ("{name: table + new}", "{name: new}"),
        "the other sequences stay": ('state["tables"] | {name: table + new}', "{name: table + new}"),
        "the length is written": ('    after["lengths"] = state["lengths"] | {name: length}\n', ""),
        "it is that of all": ("{name: length}", "{name: count}"),
        "too few pages: done is False": ("return False, state", "return True, state"),
        "nothing is given": (
            "        return False, state",
            '        return False, state | {"free": [], "counts": [1] * len(state["counts"])}',
        ),
        "a new name is not written": (
            "        return False, state",
            '        return False, state | {"tables": {name: []} | state["tables"], '
            '"lengths": {name: 0} | state["lengths"]}',
        ),
        "the last free page may be taken": ('missing > len(state["free"])', 'missing >= len(state["free"])'),
        "none is missing where the last page has room": (
            'if missing > len(state["free"]):',
            'if missing > len(state["free"]) or not state["free"]:',
        ),
        "no exception": ("        return False, state", '        raise MemoryError("no page")'),
        "done first": ("return True, after", "return after, True"),
        "not the new state alone": ("return True, after", "return after"),
        "the state stays as it is": ("after = state | {", "after = state\n    after |= {"),
    },
    "free-sequence": {
        "the table disappears": ('for key in ("tables", "lengths")', 'for key in ("lengths",)'),
        "the length disappears": ('for key in ("tables", "lengths")', 'for key in ("tables",)'),
        "not the others'": (
            "for n, value in state[key].items() if n != name",
            "for n, value in state[key].items() if n == 0",
        ),
        "counts go down": ("n - (page in table)", "n"),
        "by one, not to zero": ("n - (page in table)", "n * (page not in table)"),
        "those of its own pages": ("n - (page in table)", "max(0, n - 1)"),
        "a shared page is not free": (_BACK, 'state["free"] + table'),
        "the last owner frees it": ("if counts[page] == 0]", 'if state["counts"][page] == 0]'),
        "pages are free again": (_BACK, 'state["free"]'),
        "at the end": (_BACK, '[page for page in table if counts[page] == 0] + state["free"]'),
        "in the order of the table": (_BACK, 'state["free"] + [page for page in table[::-1] if counts[page] == 0]'),
        "not sorted": (_BACK, 'state["free"] + sorted(page for page in table if counts[page] == 0)'),
        "nor by number": (_BACK, "[page for page, n in enumerate(counts) if n == 0]"),
        "an unknown name is refused": (
            '        raise ValueError(f"there is no sequence {name!r}")',
            "        return state",
        ),
        "with the name": ("there is no sequence {name!r}", "there is no such sequence"),
        "the state stays as it is": (
            "    after = {**state",
            '    state["tables"] = dict(state["tables"])\n    del state["tables"][name]\n    after = {**state',
        ),
        "its lists, too": (_BACK, 'state["free"]\n    after["free"] += [page for page in table if counts[page] == 0]'),
    },
    "copy-on-write": {
        "the child has the parent's length": ('child: state["lengths"][parent]}', "child: 0}"),
        "the child has all pages": ("child: list(table)}", "child: table[:-1]}"),
        "in their order": ("child: list(table)}", "child: sorted(table)}"),
        "the parent keeps them": ('{**state["tables"], child', "{child"),
        "each count goes up": ("n + (page in table)", "n"),
        "that of the last page, too": ("n + (page in table)", "n + (page in table[:-1])"),
        "of the parent's pages alone": ("n + (page in table)", "n + (n > 0)"),
        "by one, not to two": ("n + (page in table)", "2 if page in table else n"),
        "a fork copies no page": (
            '    return {**state, "counts"',
            '    last, free = state["free"][0], state["free"][1:]\n'
            "    tables[child][-1], counts[table[-1]], counts[last] = last, counts[table[-1]] - 1, 1\n"
            '    state = {**state, "free": free}\n'
            '    return {**state, "counts"',
        ),
        "a taken name is refused": ('if child in state["tables"]:', "if child == parent:"),
        "also the parent's own": ('if child in state["tables"]:', 'if child in state["tables"] and child != parent:'),
        "with the name of the child": ("there is a sequence {child!r} already", "this name is taken"),
        "an unknown parent is refused": (
            'if parent not in state["tables"]:\n        raise ValueError(f"there is no sequence {parent!r}")',
            'if parent not in state["tables"]:\n        return state',
        ),
        "with its name": ("there is no sequence {parent!r}", "there is no such sequence"),
        "a full page is followed by another": ("table.append(page)", "table[-1] = page"),
        "it is not copied": (
            "            table.append(page)",
            "            copies = [(table[-1], page)]\n            table.append(page)",
        ),
        "and stays shared": (
            "            table.append(page)",
            "            counts[table[-1]] -= is_shared\n            table.append(page)",
        ),
        "a page with room is used": ("if is_full or is_shared:", "if True:"),
        "a shared page is not written into": ("if is_full or is_shared:", "if is_full:"),
        "of two, too": ("counts[table[-1]] > 1", "counts[table[-1]] > 2"),
        "the last page counts, not the first": ("counts[table[-1]] > 1", "counts[table[0]] > 1"),
        "the copy takes its place": ("            table[-1] = page\n", "            table.append(page)\n"),
        "the old page loses a sequence": ("            counts[table[-1]] -= 1\n", ""),
        "not all": ("            counts[table[-1]] -= 1\n", "            counts[table[-1]] = 1\n"),
        "the new one has one": ("counts[page] = 1", "counts[page] = 0"),
        "from the front": ("free.pop(0)", "free.pop()"),
        "the copy is told": ("copies = [(table[-1], page)]", "pass"),
        "from the old to the new": ("[(table[-1], page)]", "[(page, table[-1])]"),
        "as a list of tuples": ("[(table[-1], page)]", "(table[-1], page)"),
        "of pages, not of sequences": ("[(table[-1], page)]", "[(name, page)]"),
        "the others keep the old page": (
            '    after = {**state, "free"',
            "    if copies:\n"
            '        state = {**state, "tables": {n: [copies[0][1] if p == copies[0][0] else p for p in t]'
            ' for n, t in state["tables"].items()}}\n'
            '    after = {**state, "free"',
        ),
        "a token more": ('{**state["lengths"], name: length + 1}', '{**state["lengths"], name: length}'),
        "no free page: False": (_NO_PAGE, "            return True, state, []"),
        "nothing has changed": (
            _NO_PAGE,
            '            return False, {**state, "lengths": {**state["lengths"], name: length + 1}}, []',
        ),
        "no copy is told": (_NO_PAGE, "            return False, state, [(table[-1], None)]"),
        "an empty list, not None": (_NO_PAGE, "            return False, state, None"),
        "a free page is not always needed": (
            "    if is_full or is_shared:",
            "    if not free:\n        return False, state, []\n    if is_full or is_shared:",
        ),
        "an empty list where none was copied": ("return True, after, copies", "return True, after, copies or None"),
        "three": ("return True, after, copies", "return True, after"),
        "the state stays as it is": ('free, counts = list(state["free"])', 'free, counts = state["free"]'),
        "its tables, too": ('table, length = list(state["tables"][name])', 'table, length = state["tables"][name]'),
    },
    "gather-pages": {
        "in the table's order": ("table = np.array(table, dtype=int)", "table = np.sort(np.array(table, dtype=int))"),
        "the table counts": (_READ, "return pages[place // page_size, place % page_size]"),
        "places within a page": (_READ, "return pages[table[place // page_size], place // page_size % page_size]"),
        "page by page, not across": (_READ, "return pages[table[place % len(table)], place // len(table) % page_size]"),
        "the page size counts": ("page_size = pages.shape[1]", "page_size = pages.shape[0]"),
        "what is behind is cut off": (
            _READ,
            "return pages[table].reshape(-1, *pages.shape[2:])",
        ),
        "at the end, not at the beginning": (
            _READ,
            "return pages[table].reshape(-1, *pages.shape[2:])[-length:]",
        ),
        "also in a page that is not the last": (
            _READ,
            "last = length - (len(table) - 1) * page_size\n"
            "    return np.concatenate([*pages[table[:-1]], pages[table[-1]][:last]])",
        ),
        "heads stay where they are": (_READ, f"{_READ}.swapaxes(0, 1)"),
        "flat along the tokens": (_READ, "return pages[table]"),
        "heads are not flattened": (_READ, f"{_READ}.reshape(length, -1)"),
        "too few pages are refused": (
            '        raise ValueError(f"{len(table)} pages do not hold {length} tokens")',
            "        length = len(table) * page_size",
        ),
        "also one token too many": ("if length > len(table) * page_size:", "if length > len(table) * page_size + 1:"),
        "but full pages are not": ("if length > len(table) * page_size:", "if length >= len(table) * page_size:"),
        "nor spare ones": ("if length > len(table) * page_size:", "if -(-length // page_size) != len(table):"),
        "with the length": ("do not hold {length} tokens", "do not hold so many tokens"),
        "the pages stay as they are": (
            "    return pages",
            "    pages[np.isnan(pages)] = 0.0\n    pages += 1\n    pages -= 0.5\n    return pages",
        ),
    },
    "useful-share": {
        "the maximum is reserved": ("(len(lengths) * max_length)", "(len(lengths) * max(lengths))"),
        "for each sequence": ("(len(lengths) * max_length)", "max_length"),
        "useful over reserved": (
            "sum(lengths) / (len(lengths) * max_length)",
            "len(lengths) * max_length / sum(lengths)",
        ),
        "whole pages": (_PAGED, "sum(lengths) / sum(lengths)"),
        "rounded up": ("-(-length // page_size)", "(length // page_size)"),
        "a full page needs no other": ("-(-length // page_size)", "(length // page_size + 1)"),
        "for each sequence, not together": (
            "sum(-(-length // page_size) for length in lengths)",
            "-(-sum(lengths) // page_size)",
        ),
        "not a mean of quotients": (_PAGED, _PER_SEQUENCE),
        "pages, not tokens": ("(pages * page_size)", "pages"),
        "the page size counts": ("    pages = ", "    page_size = 16\n    pages = "),
        "what is useful, not what is lost": ("return contiguous, ", "return 1 - contiguous, "),
        "of both": ("return contiguous, sum", "return contiguous, 1 - sum"),
        "contiguous first": (f"return contiguous, {_PAGED}", f"return {_PAGED}, contiguous"),
        "not in per cent": ("return contiguous, ", "return 100 * contiguous, "),
        "not rounded": ("return contiguous, ", "return round(contiguous, 2), "),
        "a long sequence is refused": (
            "    if max(lengths) > max_length:",
            "    lengths = [min(n, max_length) for n in lengths]\n    if max(lengths) > max_length:",
        ),
        "but not one that just fits": ("if max(lengths) > max_length:", "if max(lengths) >= max_length:"),
        "wherever it is": ("if max(lengths) > max_length:", "if lengths[-1] > max_length:"),
        "with its length": ("{max(lengths)} tokens are more", "these tokens are more"),
        "the lengths stay as they are": ("    pages = ", "    lengths.sort()\n    pages = "),
    },
}
