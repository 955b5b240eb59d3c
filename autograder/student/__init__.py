"""What students use: the released notebook, and the visible checks."""
