"""The book's page on what the libraries really do, made from rows that tests write (`tests/library_log.py`)."""

from itertools import groupby

ORDER = (
    "torch",
    "torch.distributed",
    "transformers",
    "tokenizers",
    "datasets",
    "PEFT",
    "TRL",
    "bitsandbytes",
    "papermill",
    "nbgrader",
    "Jupyter Book",
    "Slurm",
)


def libraries_page(rows: list[dict]) -> str:
    """One section for each library, and in it one for each behaviour.

    Args:
        rows: what the tests wrote, each with package, version, happens, expected, instead, chapter, test and date.

    Returns:
        The page in Markdown. Its texts are Markdown themselves.
    """
    rows = sorted(rows, key=lambda row: (_place(row["package"]), row["chapter"], row["happens"]))
    sections = [_section(package, list(group)) for package, group in groupby(rows, key=lambda row: row["package"])]
    newest = max((row["date"] for row in rows), default="")[:10]
    return "\n\n".join([_introduction(len(rows), newest), *sections]) + "\n"


def _introduction(count: int, newest: str) -> str:
    return f"""# What the libraries really do

These {count} behaviours change a result, and somebody who knows the library would probably guess them wrong. Hardly any
raises an error. Each one is a test that passed with the version in the heading (the newest run is of {newest}). When a
release changes a behaviour, the test fails and the entry leaves this page."""


def _section(package: str, rows: list[dict]) -> str:
    return "\n\n".join([f"## {package} {rows[0]['version']}", *map(_entry, rows)])


def _entry(row: dict) -> str:
    file, _, test = row["test"].partition("::")
    return "\n\n".join(
        [
            f"### {row['happens']}",
            f"**You would expect:** {row['expected']}",
            f"**What to do:** {row['instead']}",
            f"{_link(row['chapter'])}. Test: `{test.split('::')[-1]}` in `{file}`.",
        ]
    )


def _link(chapter: str) -> str:
    """To a chapter, "03_lora", or to another page of the book, "cluster"."""
    number = chapter.partition("_")[0]
    return f"[Chapter {number}](notebooks/{chapter}.ipynb)" if number.isdigit() else f"{{doc}}`{chapter}`"


def _place(package: str) -> tuple[int, str]:
    return (ORDER.index(package) if package in ORDER else len(ORDER)), package
