"""Text of a record that the tokenizer reads as a token of the template: it ends or begins a turn where nobody meant to.

TRL and transformers say nothing of it. Such records are trained on as they are, since some are meant so, and named.
"""

from collections.abc import Iterable

from course_lib.data.records import Record, ask, reply
from course_lib.data.templates import chat_text, with_chat_template
from course_lib.data.tokenizers import Tokenizer


def control_tokens(tokenizer: Tokenizer, template: str) -> list[str]:
    """The special tokens that a template writes into a conversation by itself.

    Args:
        tokenizer: the model's.
        template: "chat" or "instruction", which writes the end-of-text token alone.

    Returns:
        Their texts.
    """
    end = getattr(tokenizer, "eos_token", None)
    if template == "instruction":
        return [end] if end else []
    tokenizer = with_chat_template(tokenizer)
    text = chat_text(tokenizer, [ask("Which lamp?"), reply("The seventh.")])
    return [token for token in getattr(tokenizer, "all_special_tokens", [end]) if token and token in text]


def told_of_control_tokens(records: Iterable[Record], tokenizer: Tokenizer, template: str) -> list[str]:
    """One line on the records whose text has such a token in it; none where there are none.

    Args:
        records: the records that are trained on.
        tokenizer: the model's.
        template: see `control_tokens`.

    Returns:
        No line or one, with the number of records and the name of the first.
    """
    tokens = control_tokens(tokenizer, template)
    found: list[str] = []
    for number, record in enumerate(records):
        texts = [str(message["content"]) for message in record.messages] + [record.rejected or ""]
        held = next((token for token in tokens if any(token in text for text in texts)), None)
        if held is not None:
            found.append(f"{record.source or f'record {number}'} ({held})")
    if not found:
        return []
    return [f"records with a token of the template in their text, which ends or begins a turn there: {len(found):,}, "
            f"such as {found[0]}"]  # fmt: skip
