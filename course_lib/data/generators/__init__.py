"""Embedded data sets, generated from a seed or carried by the package, with a check of every answer and a card each."""

from course_lib.data.generators.cards import cards, data_card
from course_lib.data.generators.instructions import check_instruction, instruction_set
from course_lib.data.generators.preferences import check_preference, preference_pairs
from course_lib.data.generators.problems import check_answer, final_number, word_problems

__all__ = [
    "cards",
    "check_answer",
    "check_instruction",
    "check_preference",
    "data_card",
    "final_number",
    "instruction_set",
    "preference_pairs",
    "word_problems",
]
