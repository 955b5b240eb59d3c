"""Data shared by both editions; no torch at module level (`sources`: what the package carries, `text`: text to
batches)."""

from course_lib.data.sources import style_corpus
from course_lib.data.text import batches, split_paragraphs, token_blocks

__all__ = ["batches", "split_paragraphs", "style_corpus", "token_blocks"]
