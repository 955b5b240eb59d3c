"""How a record becomes one text: the exercise's instruction template, and the tokenizer's own chat template."""

import os.path
import re

from course_lib.data.records import RecordError
from course_lib.data.tokenizers import ModelTokenizer, Tokenizer, has_chat_template
from course_lib.errors import CourseError, first_line

MARKER = re.compile(r"^(\\*### (?:Instruction|Input|Response):)$", re.M)


class InstructionFormatter:
    r"""The template of the fine-tuning exercise, and its inverse.

    ::

        ### Instruction:
        {instruction}
        ### Input:
        {input}
        ### Response:
        {output}

    A text may hold such a marker line itself. Each marker line (with any number of backslashes before it) is given one
    more backslash when it is put into the template and loses one when it is taken out, so parse inverts format for any
    text.

    Example:
        >>> print(InstructionFormatter().format("Reverse it.", "abc", "cba"))
        ### Instruction:
        Reverse it.
        ### Input:
        abc
        ### Response:
        cba
    """

    def format(self, instruction: str, input: str, output: str) -> str:
        """The whole text of an example.

        Args:
            instruction: what is asked.
            input: what it is asked about; where it is empty its section is left out, as Alpaca does.
            output: the response.

        Returns:
            The text.
        """
        return self.prompt(instruction, input) + self.escape(output)

    def prompt(self, instruction: str, input: str = "") -> str:
        """The part before the response: what the model is given, and what is not trained on.

        Args:
            instruction: what is asked.
            input: what it is asked about, if anything.

        Returns:
            The text up to and with "### Response:" and a line break.
        """
        middle = f"### Input:\n{self.escape(input)}\n" if input else ""
        return f"### Instruction:\n{self.escape(instruction)}\n{middle}### Response:\n"

    def parse(self, formatted: str) -> dict[str, str]:
        """The three parts of a formatted text.

        Returns:
            {"instruction", "input", "output"}; "input" is "" where its section was left out.

        Raises:
            ValueError: the text does not follow the template.
        """
        pattern = r"### Instruction:\n(.*?)\n(?:### Input:\n(.*?)\n)?### Response:\n(.*)"
        found = re.fullmatch(pattern, formatted, re.S)
        if found is None:
            raise ValueError("The text does not follow the template: ### Instruction:, ### Input:, ### Response:.")
        instruction, given, output = (self.unescape(part or "") for part in found.groups())
        return {"instruction": instruction, "input": given, "output": output}

    @staticmethod
    def escape(text: str) -> str:
        """Give each marker line in `text` one more backslash."""
        return MARKER.sub(r"\\\1", text)

    @staticmethod
    def unescape(text: str) -> str:
        """Take one backslash from each marker line in `text` that has one."""
        return MARKER.sub(lambda found: found[1].removeprefix("\\"), text)


def with_chat_template(tokenizer: Tokenizer) -> ModelTokenizer:
    """`tokenizer` itself, if it has a chat template. Raises CourseError if it has none."""
    if not has_chat_template(tokenizer):
        raise CourseError("This tokenizer has no chat template: choose template='instruction'.")
    return tokenizer


def chat_text(tokenizer: Tokenizer, messages: list[dict[str, str]], generation_prompt: bool = False) -> str:
    """The conversation in the tokenizer's own chat template.

    Args:
        tokenizer: one that has a chat template.
        messages: turns of {"role", "content"}, at least one.
        generation_prompt: whether the text ends where the assistant is to begin.

    Returns:
        The text.

    Raises:
        CourseError: the tokenizer has no chat template.
        RecordError: the template refuses this conversation, as one whose roles do not alternate.
    """
    tokenizer = with_chat_template(tokenizer)
    if not messages:
        raise RecordError("A conversation without a turn cannot be written in a chat template.")
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)
    except ImportError:
        raise  # jinja2 is not installed: no fault of the conversation
    except Exception as error:  # a template is a program of the model's authors, and may fail in any way
        raise RecordError(f"The tokenizer's chat template refuses the conversation: {first_line(error)}") from error


def header_of(tokenizer: Tokenizer, messages: list[dict[str, str]], turn: int) -> str:
    """The text of the conversation up to where the content of one of the assistant's turns begins.

    Args:
        tokenizer: one that has a chat template.
        messages: the conversation.
        turn: which of its turns.

    Returns:
        The text, the header of that turn included.

    Raises:
        RecordError: the template refuses the conversation.
    """
    if turn > 0:
        return chat_text(tokenizer, messages[:turn], generation_prompt=True)
    # Templates write no empty conversation, so the first turn's header is what two contents have in common.
    one, other = (chat_text(tokenizer, [messages[0] | {"content": letter}]) for letter in "XO")
    return os.path.commonprefix([one, other])
