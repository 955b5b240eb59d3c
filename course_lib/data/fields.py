"""The fields of one row, read under any of their names, so that none of them is skipped in silence."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from course_lib.data.records import Malformed

Names = tuple[str, ...]


def is_empty(value: object) -> bool:
    """Whether a field says nothing: null, an empty text, list or object."""
    return value is None or (isinstance(value, str | list | dict) and not value)


class Fields:
    """A row's values by key. It remembers which ones were read, so that the others can be counted and named.

    A null is treated as an absent field: Arrow and Parquet give every row all columns, and fill them with nulls.

    Args:
        values: the row.
        aliases: the other names of a key, such as {"prompt": ("question", "query")}; the first that is there counts.
        prefix: what stands before a field's name in `unread`, such as "messages[].".
    """

    def __init__(self, values: Mapping[str, Any], aliases: Mapping[str, Names] | None = None, prefix: str = ""):
        self.values, self.aliases, self.prefix = values, aliases or {}, prefix
        self._read: set[str] = set()
        self._below: list[Fields] = []

    def name_of(self, key: str) -> str:
        """The name under which the row has `key`; `key` itself where it has none."""
        if self.values.get(key) is None:
            for name in self.aliases.get(key, ()):
                if self.values.get(name) is not None:
                    return name
        return key

    def get(self, key: str) -> Any:
        """The value of `key`, or None. It counts as read."""
        name = self.name_of(key)
        self._read.add(name)
        return self.values.get(name)

    def text(self, key: str, *, empty: bool = False) -> str:
        """The text of `key`.

        Args:
            key: which field.
            empty: whether the text may be blank.

        Returns:
            The text.

        Raises:
            Malformed: it is missing, not a text, blank, or holds half of a character.
        """
        value, name = self.get(key), self.name_of(key)
        if not isinstance(value, str):
            found = "missing" if value is None else f"of type {type(value).__name__}"
            raise Malformed(f"{name!r} is {found}, expected a text")
        if not value.strip() and not empty:
            raise Malformed(f"{name!r} is empty")
        return whole_characters(value, repr(name))

    def below(self, name: str, values: Mapping[str, Any]) -> "Fields":
        """The fields of an object inside this row. What is unread there is reported as "name[].key".

        Args:
            name: the field that the object is in.
            values: the object.

        Returns:
            The object's fields.
        """
        inner = Fields(values, prefix=f"{self.prefix}{name}[].")
        self._below.append(inner)
        return inner

    def unread(self) -> Iterator[str]:
        """Each field that says something and was not read, here and in the objects inside."""
        for key, value in self.values.items():
            if key not in self._read and not is_empty(value):
                yield f"{self.prefix}{key}"
        for inner in self._below:
            yield from inner.unread()


def whole_characters(text: str, where: str) -> str:
    """Refuse half of a character, which JSON can spell and neither a file nor a tokenizer takes.

    Args:
        text: any text.
        where: what the message calls it.

    Returns:
        `text` itself.

    Raises:
        Malformed: the text holds half of a surrogate pair.
    """
    if re.search("[\ud800-\udfff]", text):
        raise Malformed(f"{where} holds half a surrogate pair, which is not a character")
    return text


def parsed(value: object, name: str) -> object:
    """A list or object that a CSV file or an Arrow column holds as JSON text; any other value as it is.

    Args:
        value: the field's value.
        name: the field's name.

    Returns:
        The list or object, or the value as it is.

    Raises:
        Malformed: the text looks like a list or object and is not JSON, as when pandas writes Python's spelling.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise Malformed(f"{name!r} is text and not JSON ({first_words(value)}): export it as JSON Lines") from error


def first_words(text: str, most: int = 40) -> str:
    """The beginning of a text, for a message.

    Args:
        text: any text.
        most: how many characters are shown.

    Returns:
        The text, or its beginning with an ellipsis.
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def says_no(value: object) -> bool:
    """Whether a flag is off, as JSON or as the text of a CSV file."""
    return value is False or (isinstance(value, str) and value.strip().lower() == "false")
