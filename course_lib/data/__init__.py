"""Data shared by both editions; no torch at module level.

From a source to rows: `rows` (JSON, CSV), `tables` (Parquet, Arrow), `parts` (a folder's training and test part), `hub`
(names on the hub). From rows to records: `fields`, `turns`, `preferences` and `trees`, which `formats` puts together,
and `reading`, which does all of it. From records to batches: `templates`, `masking` (ids and labels), `batching`
(padding, packing, budgets). Plain text: `text`, `shards`, `corpora`. What the package carries: `sources`, `generators`.
"""

from course_lib.data.batching import (
    block_diagonal,
    length_grouped,
    pack,
    pad,
    padding_waste,
    plan_packing,
    shuffled,
    token_budget,
)
from course_lib.data.formats import FORMATS
from course_lib.data.masking import IGNORE, Encoded, encode_record, encode_records
from course_lib.data.reading import Reading, read_records
from course_lib.data.records import Record
from course_lib.data.sources import style_corpus
from course_lib.data.templates import InstructionFormatter, chat_text
from course_lib.data.text import batches, split_paragraphs, token_blocks

__all__ = [
    "FORMATS",
    "IGNORE",
    "Encoded",
    "InstructionFormatter",
    "Reading",
    "Record",
    "batches",
    "block_diagonal",
    "chat_text",
    "encode_record",
    "encode_records",
    "length_grouped",
    "pack",
    "pad",
    "padding_waste",
    "plan_packing",
    "read_records",
    "shuffled",
    "split_paragraphs",
    "style_corpus",
    "token_blocks",
    "token_budget",
]
