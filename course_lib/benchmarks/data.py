"""Throughput of the data room: text to token shards, records to examples, examples to packed rows."""

import json
import tempfile
from pathlib import Path

from course_lib.benchmarks.timing import timed
from course_lib.data import encode_records, pack, read_records, style_corpus
from course_lib.data.generators import instruction_set
from course_lib.data.shards import prepare
from course_lib.data.tokenizers import ModelTokenizer


def bench_data(tokenizer: ModelTokenizer, text: Path | None = None) -> dict[str, float]:
    """How fast text becomes shards, and records become packed rows.

    Args:
        tokenizer: of a model.
        text: a file to tokenise; None: the bundled log, 100 times over.

    Returns:
        Sizes in MB, rates in MB/s and records a second, and the share of padding in packed rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        if text is None:
            text = Path(folder) / "log.txt"
            text.write_text(style_corpus() * 100, encoding="utf-8")
        megabytes = text.stat().st_size / 1e6
        tokenizer(["warm up"])
        _, seconds = timed(lambda: prepare([text], Path(folder) / "shards", tokenizer, say=lambda line: None))
        records = _records(Path(folder) / "records.json")
    encoded, encoding = timed(lambda: encode_records(records, tokenizer))
    rows, packing = timed(lambda: pack(encoded.examples, 512, tokenizer.pad_token_id or 0))
    return {
        "text_mb": megabytes,
        "shards_mb_s": megabytes / seconds,
        "records_per_s": len(records) / encoding,
        "packed_examples_per_s": len(records) / packing,
        "packed_padding": float((rows["segment_ids"] < 0).mean()),
    }


def _records(path: Path) -> list:
    path.write_text(json.dumps(instruction_set("train", 2_000)))
    return read_records(path, "alpaca").records
