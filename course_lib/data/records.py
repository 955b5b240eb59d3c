"""One record type for every instruction, chat, preference and problem data set."""

from dataclasses import dataclass

from course_lib.errors import CourseError

ROLES = ("system", "user", "assistant")
PARTS = ("train", "validation", "test")


class Malformed(ValueError):
    """A row that does not follow its format; the message says why."""


class RecordError(CourseError):
    """One record cannot be used, for a reason of its own; the others may be fine."""


@dataclass(frozen=True)
class Record:
    """A conversation whose last turn the assistant is to learn.

    Attributes:
        messages: turns of {"role", "content"}, the last one the assistant's (the chosen one of a preference).
        rejected: what the assistant should not have said instead.
        answer: the final answer that a verifier compares.
        input: Alpaca's separate input; it is also the end of the user's turn.
        source: where the record came from ("file:line").
        untrained: the numbers of the assistant's turns that are context only, as OpenAI's "weight": 0 marks them.
        part: "train", "validation" or "test" where the data set says so, else "".
    """

    messages: tuple[dict[str, str], ...]
    rejected: str | None = None
    answer: str | None = None
    input: str = ""
    source: str = ""
    untrained: frozenset[int] = frozenset()
    part: str = ""

    @property
    def prompt(self) -> list[dict[str, str]]:
        """Everything before the last turn."""
        return [dict(message) for message in self.messages[:-1]]

    @property
    def response(self) -> str:
        """The last turn's text."""
        return self.messages[-1]["content"]

    def alpaca(self) -> dict[str, str]:
        """{"instruction", "input", "output"}, for the instruction template.

        Raises:
            RecordError: the conversation has more than one question and one answer, and the template has no place for
                the rest.
        """
        roles = [message["role"] for message in self.messages]
        if roles != ["user", "assistant"]:
            raise RecordError(
                f"{self.source or 'The record'}: the instruction template holds one question and one answer, and this "
                f"conversation has the turns {', '.join(roles)}. Use the chat template for it."
            )
        asked = self.messages[0]["content"]
        instruction = asked.removesuffix(f"\n\n{self.input}") if self.input else asked
        return {"instruction": instruction, "input": self.input, "output": self.response}


def ask(instruction: str, input: str = "") -> dict[str, str]:
    """A user's turn.

    Args:
        instruction: what is asked.
        input: what it is asked about; it follows the instruction after a blank line.

    Returns:
        The turn.
    """
    return {"role": "user", "content": f"{instruction}\n\n{input}" if input else instruction}


def reply(text: str) -> dict[str, str]:
    """An assistant's turn."""
    return {"role": "assistant", "content": text}
