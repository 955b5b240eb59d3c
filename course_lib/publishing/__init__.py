"""Publishing: the book from prose, executed chapters and docstrings, and the checks of the built pages."""
