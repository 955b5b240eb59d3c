"""The companion package of the course on adapting language models: the NumPy edition in `course_lib.scratch`,
the PyTorch edition in the other rooms. Importing it is cheap: no room is imported before it is named."""

import logging

__version__ = "0.3.0"

# PEFT imports bitsandbytes, which on processors with AVX512-BF16 warns that a kernel it does not need is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
