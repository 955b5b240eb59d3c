"""Right answers to `datasets` that differ from the reference: other ways, other names. See `test_other_answers`."""

OTHERS = {
    "format": '''
MARKS = ("### Instruction:", "### Input:", "### Response:")


def escaped(text):
    lines = text.split("\\n")
    return "\\n".join("\\\\" + line if line.lstrip("\\\\") in MARKS else line for line in lines)


class InstructionFormatter:
    """Alpaca's."""

    def format(self, instruction, input, output):
        print("formatting", instruction)
        parts = ["### Instruction:", escaped(instruction)]
        if input != "":
            parts += ["### Input:", escaped(input)]
        return "\\n".join(parts + ["### Response:", escaped(output)])
''',
    "parse": """
def parse(formatter, text):
    found, name = {}, None
    for line in text.split("\\n"):
        bare = {"### Instruction:": "instruction", "### Input:": "input", "### Response:": "output"}.get(line)
        if bare is None and name is None:
            raise ValueError("no template at the start")
        if bare:
            if bare in found:
                raise ValueError("template: a section comes twice")
            name = bare
            found[name] = []
        else:
            found[name].append(line[1:] if line[:1] == "\\\\" and MARKER.match(line) else line)
    if list(found) not in (["instruction", "input", "output"], ["instruction", "output"]):
        raise ValueError("not the template's sections")
    if any(not lines for lines in found.values()):
        raise ValueError("the template has a line for each text")
    record = {"instruction": "", "input": "", "output": ""}
    record.update({key: "\\n".join(lines) for key, lines in found.items()})
    return record
""",
    "example": """
class FinetuneDataset:
    def __init__(self, data, tokenizer, max_length=128):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.examples = []
        for record in data:
            self.examples.append(self.cut(self.example(record)))

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]

    def example(self, row):
        question, answer = prompt_and_response(row)
        ids = list(self.tokenizer.encode(question))
        labels = [-100 for _ in ids]
        for token in self.tokenizer.encode(answer):
            ids.append(token)
            labels.append(token)
        return dict(labels=labels, input_ids=ids)
""",
    "cut": """
def cut(dataset, item):
    n = dataset.max_length
    labels = list(item["labels"])[:n]
    if set(labels) <= {-100}:
        raise ValueError("choose a max_length above " + str(n))
    return {"input_ids": list(item["input_ids"])[:n], "labels": labels}
""",
    "collate": """
class DataCollator:
    def __init__(self, pad_token_id=0):
        self.pad_token_id = pad_token_id

    def collate(self, examples):
        shape = len(examples), max([len(e["labels"]) for e in examples])
        ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        labels = -100 * np.ones(shape, dtype=np.int32)
        for row, e in enumerate(examples):
            ids[row, : len(e["input_ids"])] = e["input_ids"]
            labels[row, : len(e["labels"])] = e["labels"]
        return {"labels": labels, "input_ids": ids}
""",
    "first-fit": """
def first_fit(lengths, capacity):
    rows = []
    for i in range(len(lengths)):
        if lengths[i] > capacity:
            raise ValueError("too long: " + str(lengths[i]))
        for row in rows:
            if sum(lengths[j] for j in row) + lengths[i] <= capacity:
                row.append(i)
                break
        else:
            rows.append([i])
    return rows
""",
    "packed-row": """
def packed_row(sizes):
    total = sum(sizes)
    mask = np.zeros((total, total), dtype=bool)
    position_ids = np.zeros(total, dtype=np.int32)
    start = 0
    for n in sizes:
        for i in range(n):
            position_ids[start + i] = i
            mask[start + i, start : start + i + 1] = True
        start += n
    return position_ids, mask
""",
    "shuffled": """
def shuffled_batches(n, size, seed):
    rest = np.arange(n)
    np.random.default_rng(seed).shuffle(rest)
    rest, out = [int(i) for i in rest], []
    while rest:
        out.append(rest[:size])
        rest = rest[size:]
    return out
""",
    "grouped": """
def length_grouped_batches(lengths, batch_size, seed):
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches = []
    while order:
        batches.append(order[:batch_size])
        del order[:batch_size]
    rng = np.random.default_rng(seed)
    rng.shuffle(batches)
    return batches
""",
}
