"""A built book in a local server, and a real browser to look at it."""

import base64
import http.server
import io
import json
import os
import threading
from pathlib import Path

import pytest
from browsing import browser  # noqa: F401
from visiting import Visit

ROOT = Path(__file__).parents[2]

STAND_IN_ROW = {"room": "data", "what": "a {stand-in}", "against": "it", "measured": 0.0, "tolerance": 1e-9} | {
    "unit": "relative", "why": "none", "test": "x", "date": "2026-01-01"
}  # fmt: skip

STAND_IN_BEHAVIOUR = {
    "package": "torch", "version": "2", "happens": "`x` is a stand-in", "expected": "Another.", "instead": "Nothing.",
    "chapter": "03_lora", "test": "tests/x.py::x", "date": "2026-01-01",
}  # fmt: skip


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """The pages to look at: the book that COURSE_BOOK_HTML names, or one built here from the real prose and an
    executed stand-in for each chapter, which takes seconds instead of minutes."""
    if given := os.environ.get("COURSE_BOOK_HTML"):
        return Path(given).resolve()
    from course_lib.publishing import sources as book_sources
    from course_lib.publishing.build import build
    from course_lib.publishing.parity_page import measured_rows

    folder = tmp_path_factory.mktemp("book")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        _stand_in(path, folder / "runs" / path.stem)
    with pytest.MonkeyPatch.context() as patch:  # never the parity tests from within a test
        stand_ins = {"parity": [STAND_IN_ROW], "libraries": [STAND_IN_BEHAVIOUR]}
        patch.setattr(
            book_sources, "ensure_rows", lambda root, kind="parity": measured_rows(root, kind) or stand_ins[kind]
        )
        build(ROOT, folder / "runs", folder / "html")
    return folder / "html"


def _stand_in(chapter: Path, folder: Path) -> None:
    """The real chapter's text with outputs of every kind that a page must cope with."""
    from course_lib.execution.environment import hardware, versions

    notebook = json.loads(chapter.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code):  # a table in every cell would weigh more than any chapter does
        cell["outputs"] = _outputs(described="mystnb" in cell["metadata"], tables=number % 2 == 0)
        cell["execution_count"] = 1
    folder.mkdir(parents=True)
    (folder / "notebook.ipynb").write_text(json.dumps(notebook))
    metrics = {"chapter": chapter.stem, "profile": "smoke", "duration_s": 1.0, "peak_memory_bytes": 1, "commit": None}
    metrics |= {"finished": "2026-01-01", "recorded": {"loss": 1.5}, "versions": versions(), "hardware": hardware()}
    (folder / "metrics.json").write_text(json.dumps(metrics))


def _outputs(described: bool, tables: bool) -> list[dict]:
    from course_lib.evaluation import Comparison
    from course_lib.tables import Table

    wide = "a long line of output " * 20
    outputs = [{"output_type": "stream", "name": "stdout", "text": wide}]
    outputs.append({"output_type": "stream", "name": "stderr", "text": "WARNING: not for readers"})
    if described:
        data = {"image/png": base64.b64encode(_figure("png")).decode(), "text/plain": "<Figure>"}
        data["image/svg+xml"] = _figure("svg").decode()
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
        return outputs  # a caption belongs to every display of its cell, and a cell that plots has no other
    if not tables:
        return outputs
    comparison = Comparison(["a prompt"], {f"model {number}": ["a wide cell of text"] for number in range(8)})
    results = Table({"model": "", "loss": ".3f"} | {f"N = {n}": ".1f MB" for n in range(9)})
    results.add("LoRA", 1.25, *range(9))
    for table in (comparison._repr_html_(), results._repr_html_()):
        outputs.append({"output_type": "display_data", "data": {"text/html": table}, "metadata": {}})
    return outputs


def _figure(kind: str) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3))
    figure.subplots().plot([1, 0.5, 0.25])
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def server(html):
    """The address of a local server of the pages."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **options):
            super().__init__(*args, directory=str(html), **options)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def visit(browser, server):  # noqa: F811
    visits = []

    def open_(page, device="desktop"):
        visits.append(Visit(browser, server, page, device))
        return visits[-1]

    yield open_
    for one in visits:
        one.context.close()
