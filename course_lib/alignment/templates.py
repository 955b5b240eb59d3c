"""Checks for silent faults of a template, with which training runs through and the model cannot answer afterwards."""

from course_lib.data.templates import chat_text, header_of, with_chat_template
from course_lib.data.tokenizers import Tokenizer
from course_lib.errors import CourseError

ASKED, ANSWER = {"role": "user", "content": "Which lamp is lit?"}, "The seventh lamp."


def check_template(tokenizer: Tokenizer, template: str) -> None:
    """Refuse a template whose prompt does not lead to the answer, or whose answer does not end with a token.

    Args:
        tokenizer: the model's.
        template: "chat" or "instruction".

    Raises:
        CourseError: the tokenizer has no end-of-text token; or the chat template ignores add_generation_prompt, so that
            the header of the answer would be trained as if it were its first words; or it does not end the
            assistant's turn, so that the model would never learn to stop.
    """
    if template == "instruction":
        if getattr(tokenizer, "eos_token", None) is None:
            raise CourseError(
                "The tokenizer has no end-of-text token, so the model would never learn to stop. Set "
                "tokenizer.eos_token, or take a model whose tokenizer has one."
            )
        return
    tokenizer = with_chat_template(tokenizer)
    turns = [ASKED, {"role": "assistant", "content": ANSWER}]
    whole, prompt = chat_text(tokenizer, turns), header_of(tokenizer, turns, 1)
    if ANSWER not in whole:
        raise CourseError("The tokenizer's chat template leaves the assistant's turn out: repair it, or take another.")
    # What stands between the prompt and the answer is what generation would have to begin with by itself.
    begins = whole.index(ANSWER)
    between = whole[len(prompt) : begins] if whole.startswith(prompt) else whole[:begins]
    if between.strip():
        raise CourseError(
            f"The tokenizer's chat template has no generation prompt: with add_generation_prompt its prompt does not "
            f"end where the answer begins, and {between.strip()!r} would be trained as part of the answer. Add "
            "{% if add_generation_prompt %}...{% endif %} to it, or take --template instruction."
        )
    if not whole[begins + len(ANSWER) :].strip():
        raise CourseError(
            "The tokenizer's chat template does not end the assistant's turn with a token, so the model would never "
            "learn to stop. Let it write an end token there, or take --template instruction."
        )
