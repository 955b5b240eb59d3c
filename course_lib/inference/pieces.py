"""From tokens to pieces of text that never split a character, up to the first stop text."""

from collections.abc import Iterable, Sequence

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError

UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are not a character


class TextPieces:
    """Turn token ids into pieces of text, each of them a whole number of characters.

    A token of a byte-level tokenizer is a piece of UTF-8, which can end within a character, and some tokenizers drop
    the blank before a text's first token. So a few tokens before the new ones are decoded along with them, and a piece
    that ends in an unfinished character waits for the next token. The joined pieces equal `tokenizer.decode` of all
    tokens.

    Args:
        tokenizer: the tokenizer of the model.

    Example:
        >>> from course_lib.scratch import BPETokenizer
        >>> pieces = TextPieces(BPETokenizer())  # one token for each byte, and two bytes for this letter
        >>> [pieces.add([token]) for token in "é!".encode()]
        ['', 'é', '!']
    """

    def __init__(self, tokenizer: ModelTokenizer):
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.start = self.read = 0  # the tokens decoded for context, and those whose text is out

    def add(self, tokens: Iterable[int], last: bool = False) -> str:
        """Take new tokens.

        Args:
            tokens: their ids.
            last: whether these are the last tokens, after which nothing waits any longer.

        Returns:
            The text that has become certain; it may be empty.
        """
        self.tokens += tokens
        before = self.tokenizer.decode(self.tokens[self.start : self.read])
        now = self.tokenizer.decode(self.tokens[self.start :])
        if len(now) <= len(before) and not last:
            return ""
        if now.endswith(UNFINISHED) and not last:
            return ""
        self.start, self.read = self.read, len(self.tokens)
        return now[len(before) :]


class Answer:
    """Release tokens and their text as soon as it is certain that they belong to the answer.

    A stop text can begin and end within tokens, so it is searched in the text. Text that may begin a stop text is held
    back, and so are tokens that end within a character. A token is released with the last part of its text.

    Args:
        tokenizer: the tokenizer of the model; None if only tokens are wanted.
        stop: the texts at which the answer ends.

    Raises:
        CourseError: a stop text is empty, or there are stop texts but no tokenizer.
    """

    def __init__(self, tokenizer: ModelTokenizer | None, stop: Sequence[str] = ()):
        if not all(stop):
            raise CourseError("A stop text is empty; each needs at least one character.")
        if stop and tokenizer is None:
            raise CourseError("Stop texts need a tokenizer, and this engine was started without one.")
        self.stop = tuple(stop)
        self._pieces = TextPieces(tokenizer) if tokenizer is not None else None
        self._unread: list[int] = []  # tokens whose text has not come yet
        self._held: list[tuple[list[int], int]] = []  # tokens that are held back, with where their text ends
        self._text = ""  # from the first character that is held back
        self.stopped = False

    def add(self, tokens: Sequence[int], last: bool = False) -> tuple[list[int], str]:
        """Take new tokens.

        Args:
            tokens: their ids.
            last: whether these are the last tokens, after which nothing is held back any longer.

        Returns:
            The tokens and the text that have become certain. `stopped` says whether a stop text has come.
        """
        if self._pieces is None:
            return list(tokens), ""
        self._unread += tokens
        fresh = self._pieces.add(tokens, last)
        if fresh or last:
            self._text += fresh
            self._held.append((self._unread, len(self._text)))
            self._unread = []
        ends = [place for text in self.stop if (place := self._text.find(text)) >= 0]
        if ends:
            self.stopped = True
            return self._release(min(ends))
        return self._release(len(self._text) - (0 if last else self._beginning()))

    def _beginning(self) -> int:
        """The length of the longest suffix of the text that is the beginning of a stop text."""
        longest = max((len(text) - 1 for text in self.stop), default=0)
        for length in range(min(longest, len(self._text)), 0, -1):
            if any(text.startswith(self._text[-length:]) for text in self.stop):
                return length
        return 0

    def _release(self, until: int) -> tuple[list[int], str]:
        """The text up to a place, and the tokens whose text ends there or before."""
        tokens = [token for group, end in self._held if end <= until for token in group]
        self._held = [(group, end - until) for group, end in self._held if end > until]
        text, self._text = self._text[:until], self._text[until:]
        return tokens, text
