"""One record type for every instruction, chat, preference and problem data set."""

from dataclasses import dataclass

from course_lib.errors import CourseError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Record:
    """A conversation whose last turn the assistant is to learn.

    messages: {"role", "content"} turns, the last the assistant's (the chosen one, where there is a preference).
    rejected: what the assistant should not have said instead. answer: the final answer that a verifier compares.
    input: Alpaca's separate input; it is also the end of the user's turn. source: where the record came from.
    """

    messages: tuple[dict[str, str], ...]
    rejected: str | None = None
    answer: str | None = None
    input: str = ""
    source: str = ""

    @property
    def prompt(self) -> list[dict[str, str]]:
        """Everything before the last turn."""
        return [dict(message) for message in self.messages[:-1]]

    @property
    def response(self) -> str:
        """The last turn's text."""
        return self.messages[-1]["content"]

    def alpaca(self) -> dict[str, str]:
        """{"instruction", "input", "output"}, for the instruction template. CourseError where there was more than one
        user's turn, which that template has no place for."""
        roles = [message["role"] for message in self.messages]
        if roles != ["user", "assistant"]:
            raise CourseError(f"{self.source or 'The record'}: the instruction template holds one question and one "
                             f"answer, and this conversation has the turns {', '.join(roles)}.")  # fmt: skip
        asked = self.messages[0]["content"]
        instruction = asked.removesuffix(f"\n\n{self.input}") if self.input else asked
        return {"instruction": instruction, "input": self.input, "output": self.response}


def ask(instruction: str, input: str = "") -> dict[str, str]:
    """A user's turn; an input follows the instruction after a blank line."""
    return {"role": "user", "content": f"{instruction}\n\n{input}" if input else instruction}


def reply(text: str) -> dict[str, str]:
    """An assistant's turn."""
    return {"role": "assistant", "content": text}
