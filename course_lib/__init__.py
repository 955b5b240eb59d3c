"""The companion package of the course on adapting language models: the NumPy edition in `course_lib.scratch`,
the PyTorch edition in the other rooms. Importing it is cheap: no room is imported before it is named."""

__version__ = "0.1.0"
