"""A tiny chapter for the tests of the cluster."""

import json


def write_chapter(path, source):
    parameters = "profile = 'smoke'\nseed = 0\noutput_dir = 'outputs'"
    set_up = "from course_lib.execution import Recorder\nrecord = Recorder(output_dir)"
    cells = [(parameters, ["parameters"]), (set_up, []), (source, [])]
    notebook = {
        "cells": [
            {"cell_type": "code", "id": f"cell-{i}", "metadata": {"tags": tags}, "source": text, "outputs": []}
            | {"execution_count": None}
            for i, (text, tags) in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook))
