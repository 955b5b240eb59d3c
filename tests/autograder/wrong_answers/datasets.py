"""Plausible wrong answers to `datasets`: one for each requirement that its text states. See `test_wrong_answers`."""

_BATCHES = "order[start : start + batch_size] for start in range(0, count, batch_size)"

WRONG = {
    "format": {
        "no line break at the end": ('return "\\n".join(sections)', 'return "\\n".join(sections) + "\\n"'),
        "an empty input's section is left out": ("        if input:", "        if True:"),
        "with its heading": (
            "        if input:",
            "        if not input:\n            sections[0] += '\\n### Input:'\n        else:",
        ),
        "only an empty one's": ("        if input:", "        if input.strip():"),
        "the instruction comes first": ("sections.insert(1", "sections.insert(0"),
        "texts stay as they are": ('\\1", text)', '\\1", text.strip())'),
        "marker lines get a backslash": ('MARKER.sub(r"\\\\\\1", text)', "text"),
        "one, however many there are": (
            'MARKER.sub(r"\\\\\\1", text)',
            're.sub(r"^\\\\*(### (?:Instruction|Input|Response):)$", r"\\\\\\1", text, flags=re.M)',
        ),
        "those that have one get another": (
            'MARKER.sub(r"\\\\\\1", text)',
            're.sub(r"^(### (?:Instruction|Input|Response):)$", r"\\\\\\1", text, flags=re.M)',
        ),
        "in every line": ('MARKER.sub(r"\\\\\\1", text)', 'MARKER.sub(r"\\\\\\1", text, count=1)'),
        "only whole lines": (
            'MARKER.sub(r"\\\\\\1", text)',
            're.sub(r"(\\\\*### (?:Instruction|Input|Response):)", r"\\\\\\1", text)',
        ),
        "in the output, too": ('section("Response", output)', '"### Response:\\n" + output'),
        "in the input, too": ('section("Input", input)', '"### Input:\\n" + input'),
    },
    "parse": {
        "several lines": ("formatted, re.S)", "formatted)"),
        "an empty input is possible": ("(?:### Input:\\n(.*?)\\n)?", "### Input:\\n(.*?)\\n"),
        "one backslash is taken away": ("plain, found.groups()", "lambda text: text or '', found.groups()"),
        "no more than one": ('.removeprefix("\\\\")', '.lstrip("\\\\")'),
        "only from marker lines": (
            'MARKER.sub(lambda marker: marker[1].removeprefix("\\\\"), text or "")',
            "re.sub(r'^\\\\', '', text or '', flags=re.M)",
        ),
        "only a line break ends a line": (
            "    found = re",
            "    formatted = '\\n'.join(formatted.splitlines()) + ('\\n' if formatted.endswith('\\n') else '')\n"
            "    found = re",
        ),
        "texts stay as they are": ('text or "")\n', 'text or "").strip()\n'),
        "what comes before is refused": (
            "re.fullmatch(given, formatted, re.S)",
            "re.search(given + '$', formatted, re.S)",
        ),
        "a missing section is refused": (
            "    if found is None:",
            "    if found is None and formatted.startswith('###'):\n"
            "        return {'instruction': formatted, 'input': '', 'output': ''}\n"
            "    if found is None:",
        ),
        "by a ValueError": ("ValueError(", "KeyError("),
        "that says template": ("does not follow the template", "is not right"),
    },
    "example": {
        "the prompt is masked": ('"labels": [-100] * len(prompt) + response', '"labels": prompt + response'),
        "with -100": ("[-100]", "[0]"),
        "the response is not": ("+ response,\n        }", "+ [-100] * len(response),\n        }"),
        "labels are not shifted": ("[-100] * len(prompt) + response", "([-100] * len(prompt) + response)[1:] + [-100]"),
        "each is encoded on its own": (
            "prompt, response = map(self.tokenizer.encode, prompt_and_response(record))",
            "first, second = prompt_and_response(record)\n        ids = self.tokenizer.encode(first + second)\n"
            "        at = len(self.tokenizer.encode(first))\n        prompt, response = ids[:at], ids[at:]",
        ),
        "lists of equal length": ("[-100] * len(prompt) + response", "response"),
        "lists": ('"input_ids": prompt + response', '"input_ids": np.array(prompt + response)'),
        "with these names": ('"labels"', '"label"'),
        "of tokens, not of characters": ("[-100] * len(prompt)", "[-100] * len(prompt_and_response(record)[0])"),
        "the whole record, uncut": ("prompt + response,", "(prompt + response)[: self.max_length],"),
    },
    "cut": {
        "one that fits exactly stays": ("[: self.max_length]", "[: self.max_length - 1]"),
        "the end is left out": ("[: self.max_length]", "[-self.max_length :]"),
        "of the labels, too": (
            "for key, values in example.items()}",
            "for key, values in example.items()} | {'labels': example['labels']}",
        ),
        "one label that is left is enough": (
            'all(label == -100 for label in short["labels"])',
            'sum(label != -100 for label in short["labels"]) < 2',
        ),
        "where none is left it is refused": (
            'if all(label == -100 for label in short["labels"]):',
            "if not short['labels']:",
        ),
        "with the value": ("{self.max_length} leaves", "leaves"),
        "as a new example": (
            "    short =",
            "    del example['input_ids'][self.max_length :], example['labels'][self.max_length :]\n    short =",
        ),
        "by a ValueError": ("ValueError(", "IndexError("),
    },
    "collate": {
        "padded on the right": (
            "example[key] + [filler] * (longest - len(example[key]))",
            "[filler] * (longest - len(example[key])) + example[key]",
        ),
        "the ids with pad_token_id": ('stacked("input_ids", self.pad_token_id)', 'stacked("input_ids", 0)'),
        "the labels with -100": ('stacked("labels", -100)', 'stacked("labels", self.pad_token_id)'),
        "to the longest": ("longest = max(", "longest = min("),
        "of this batch": ("for example in batch)", "for example in batch + [{'input_ids': [0] * 8}])"),
        "arrays": ("return np.array(rows)", "return rows"),
        "of integers": ("np.array(rows)", "np.array(rows, dtype=float)"),
        "the examples stay": (
            "                example[key] + [filler] * (longest - len(example[key]))",
            "                example[key].extend([filler] * (longest - len(example[key]))) or example[key]",
        ),
        "with these names": ('"labels": stacked', '"label": stacked'),
    },
    "first-fit": {
        "in the given order": ("in enumerate(lengths):", "in sorted(enumerate(lengths), key=lambda pair: -pair[1]):"),
        "the first row with room": (
            "(i for i, room in enumerate(rooms) if room >= length), len(rows)",
            "(i for i, room in sorted(enumerate(rooms), key=lambda pair: pair[1]) if room >= length), len(rows)",
        ),
        "every row, not the last alone": ("in enumerate(rooms) if", "in list(enumerate(rooms))[-1:] if"),
        "an exact fit is a fit": ("room >= length", "room > length"),
        "an example as long as a row fits": ("if length > capacity", "if length >= capacity"),
        "a longer one is refused": ("if length > capacity:", "if False:"),
        "with its length": ("an example of {length} tokens", "an example"),
        "indices, not lengths": ("append(index)", "append(length)"),
        "the lengths stay": ("    rows, rooms = [], []", "    lengths.sort(reverse=True)\n    rows, rooms = [], []"),
        "no row where there is no example": ("return rows", "return rows or [[]]"),
        "a list of lists": ("return rows", "return [tuple(row) for row in rows]"),
    },
    "packed-row": {
        "positions start again": (
            "np.concatenate([np.arange(length) for length in lengths])",
            "np.arange(sum(lengths))",
        ),
        "at 0": ("np.arange(length) for", "np.arange(1, length + 1) for"),
        "examples do not see each other": ("(owner[:, None] == owner) & ", ""),
        "and not the future": (" & (place[:, None] >= place)", ""),
        "but themselves": ("place[:, None] >= place", "place[:, None] > place"),
        "row i sees column j": ("place[:, None] >= place", "place[:, None] <= place"),
        "as bool": ("return position_ids, mask", "return position_ids, mask.astype(int)"),
        "positions are integers": ("return position_ids,", "return position_ids.astype(float),"),
        "arrays": ("return position_ids, mask", "return position_ids.tolist(), mask"),
        "positions come first": ("return position_ids, mask", "return mask, position_ids"),
    },
    "shuffled": {
        "every example is visited": ("range(0, count, batch_size)", "range(0, count - batch_size + 1, batch_size)"),
        "once": ("permutation(count)", "integers(count, size=count)"),
        "in an order that the seed decides": ("default_rng(seed)", "default_rng()"),
        "another seed, another order": ("default_rng(seed)", "default_rng(0)"),
        "examples are shuffled, not batches": (
            "    return [\n        order[start : start + batch_size] for start in range(0, count, batch_size)\n    ]",
            "    order = list(range(count))\n    batches = ["
            + _BATCHES
            + "]\n    np.random.default_rng(seed).shuffle(batches)\n    return batches",
        ),
        "the program's random numbers stay": (
            "np.random.default_rng(seed).permutation",
            "(np.random.seed(seed) or np.random).permutation",
        ),
        "lists": ("permutation(count).tolist()", "permutation(count)"),
        "full ones but one": (_BATCHES, "part.tolist() for part in np.array_split(order, -(-count // batch_size))"),
        "not always the same example first": (
            "order = ",
            "order = [0] + (1 + np.random.default_rng(seed).permutation(count - 1)).tolist() or ",
        ),
    },
    "grouped": {
        "sorted by length": ("np.argsort(lengths).tolist()", "list(range(len(lengths)))"),
        "the order of the batches is shuffled": (
            "np.random.default_rng(seed).permutation(len(batches))",
            "range(len(batches))",
        ),
        "not reversed alone": (
            "np.random.default_rng(seed).permutation(len(batches))",
            "range(len(batches))[:: -1 if seed % 2 else 1]",
        ),
        "by the seed": ("default_rng(seed)", "default_rng()"),
        "another seed, another order": ("default_rng(seed)", "default_rng(0)"),
        "every index": ("range(0, len(order), batch_size)", "range(0, len(order) - batch_size + 1, batch_size)"),
        "indices, not lengths": ("np.argsort(lengths).tolist()", "sorted(lengths)"),
        "the lengths stay": (
            "order = np.argsort(lengths).tolist()",
            "order = np.argsort(lengths).tolist()\n    lengths.sort()",
        ),
        "full batches but one": (
            "order[i : i + batch_size] for i in range(0, len(order), batch_size)",
            "part.tolist() for part in np.array_split(order, -(-len(order) // batch_size))",
        ),
        "lists": ("np.argsort(lengths).tolist()", "np.argsort(lengths)"),
    },
}
