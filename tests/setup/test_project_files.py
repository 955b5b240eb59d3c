"""The files around the code: workflows, Binder, pre-commit, citation, README; and nothing of one machine in them."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from course_lib.cli import parser
from course_lib.execution.drift import versions_drifted

ROOT = Path(__file__).resolve().parents[2]
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".ipynb", ".cff", ".css", ".js", ".bib", ".sh", ".cfg", ""}
# Written in two parts, so that this file does not contain them either.
FORBIDDEN = [
    "pypi" + ".org", "python" + "hosted.org", "registry." + "npmjs", "deb." + "debian.org",
    "/work/" + "main", "/work/" + "shared", "/opt/" + "wheels", "/root/" + ".", "/root/" + "work",
]  # fmt: skip


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def load(name: str) -> dict:
    return yaml.safe_load(read(name))


def pin(package: str) -> str:
    return re.search(rf"^{package}==([^\s;]+)", read("constraints.txt"), re.MULTILINE).group(1)


def test_no_host_of_a_registry_and_no_path_of_a_machine_is_written_down(tracked_files):
    found = []
    for path in tracked_files:
        if path.suffix in TEXT:
            text = path.read_text(encoding="utf-8", errors="ignore")
            found += [f"{path.relative_to(ROOT)}: {name}" for name in FORBIDDEN if name in text]
    assert found == []


# --- shell scripts ---


@pytest.mark.parametrize("name", [".ci/run", ".ci/findings", ".ci/colab", "binder/postBuild", "binder/start"])
def test_scripts_are_executable_and_parse(name):
    assert os.access(ROOT / name, os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / name)], check=True)


def test_ci_runs_exactly_the_two_commands():
    steps = re.findall(r"^step \S+ (make \w+)", read(".ci/run"), re.MULTILINE)
    assert steps == ["make test", "make book"]


def test_the_real_pins_are_read_and_a_changed_one_is_named(tmp_path):
    changed = re.sub(r"^pytest==.*$", "pytest==0.1", read("constraints.txt"), flags=re.MULTILINE)
    (tmp_path / "constraints.txt").write_text(changed, encoding="utf-8")
    found = {each.name: each for each in versions_drifted(tmp_path / "constraints.txt")}
    assert (found["pytest"].pinned, found["pytest"].here) == ("0.1", pytest.__version__)
    assert "numpy" not in found


# --- workflows ---


def workflow(name: str) -> dict:
    found = load(f".github/workflows/{name}.yml")
    found["on"] = found.pop(True, None) or found["on"]  # YAML 1.1 reads the key `on` as true
    return found


WORKFLOWS = sorted(path.stem for path in (ROOT / ".github/workflows").glob("*.yml"))
# The jobs that may do more than read the sources, and what.
MAY_WRITE = {
    ("pages", "colab"): {"contents": "write"},
    ("pages", "deploy"): {"pages": "write", "id-token": "write"},
    ("release", "publish"): {"contents": "write"},
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_are_careful(name):
    flow = workflow(name)
    assert flow["permissions"] == {"contents": "read"}
    for key, job in flow["jobs"].items():
        assert job.get("permissions", {}) == MAY_WRITE.get((name, key), {})
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            # What an outsider can name, such as a branch, must reach a shell as a variable and never as code.
            assert "${{" not in step.get("run", ""), step
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1")), step


def test_ci_covers_the_supported_pythons_and_runs_what_readers_run():
    jobs = workflow("ci")["jobs"]
    versions = re.findall(r"Programming Language :: Python :: (3\.\d+)", read("pyproject.toml"))
    assert jobs["python"]["strategy"]["matrix"]["python"] == versions
    assert any(step.get("run") == ".ci/run" for step in jobs["debian"]["steps"])
    assert any(step.get("run", "").startswith("make test") for step in jobs["python"]["steps"])


def test_the_jobs_have_the_time_that_the_readme_says_their_commands_take():
    """And a third more: for the packages of the system, the browser's tests, and a slower machine."""
    text = read("README.md")
    tests = int(re.search(r"`make test` \|.*?about (\d+) minutes", text)[1])
    chapters, pages = map(
        int, re.search(r"`make book` \|.* in (\d+) minutes, then the pages in \d+ to (\d+)", text).groups()
    )
    needs = {
        ("ci", "debian"): tests + chapters + pages,
        ("ci", "python"): tests,
        ("pages", "build"): chapters + 2 * pages,  # the second time with this repository's buttons and a PDF
        ("drift", "newest"): tests + chapters,
    }
    limits = {(flow, job): workflow(flow)["jobs"][job]["timeout-minutes"] for flow, job in needs}
    assert {job: limit for job, limit in limits.items() if limit < needs[job] * 4 / 3} == {}


def test_drift_is_scheduled_and_installs_without_the_pins():
    flow = workflow("drift")
    assert flow["on"]["schedule"]
    commands = "\n".join(step.get("run", "") for step in flow["jobs"]["newest"]["steps"])
    assert "-c constraints.txt" not in commands
    (drift,) = re.findall(r"^course (drift .*)$", commands, re.MULTILINE)
    args = parser().parse_args(shlex.split(drift))
    assert args.here, "the releases of that job's environment"
    assert args.chapters == ["all"]
    assert args.tests == "tests/parity"


def test_drift_runs_the_findings_and_fails_with_them():
    job = workflow("drift")["jobs"]["findings"]
    steps, shares = job["steps"], job["strategy"]["matrix"]["share"]
    assert shares == [f"{number}/{len(shares)}" for number in range(1, len(shares) + 1)]
    step = next(step for step in steps if step.get("run", "").startswith(".ci/findings"))
    assert "$GITHUB_STEP_SUMMARY" in step["run"]
    assert step["shell"] == "bash"  # GitHub's default shell is without pipefail, and `tee` always succeeds


def test_the_book_is_published_from_main_alone():
    flow = workflow("pages")
    build, deploy = flow["jobs"]["build"], flow["jobs"]["deploy"]
    assert flow["on"]["push"] == {"branches": ["main"]}
    assert build["if"] == "github.ref == 'refs/heads/main'"
    assert deploy["needs"] == ["build", "colab"]
    assert any(step.get("run") == "make book" for step in build["steps"])
    assert [step.get("with") for step in build["steps"] if "upload-pages-artifact" in step.get("uses", "")] == [
        {"path": "build/book/html"}
    ]
    assert any(step.get("uses", "").startswith("actions/deploy-pages@") for step in deploy["steps"])
    assert flow["concurrency"] == {"group": "pages", "cancel-in-progress": False}


def test_the_branch_for_colab_is_pushed_before_the_pages_whose_buttons_lead_there():
    job = workflow("pages")["jobs"]["colab"]
    assert job["needs"] == "build"  # a commit whose book does not build is not published
    assert job["permissions"] == {"contents": "write"}
    assert job["steps"][-1]["run"] == '.ci/colab "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY"'


# --- Binder ---


def test_binder_installs_as_set_up_does_and_converts_the_weights_in_advance():
    """The build of torch and the pins are `hosted`'s, which tests/setup/test_torch_build.py covers."""
    assert load("binder/environment.yml")["dependencies"] == ["python=3.11", "pip"]
    commands = [line for line in read("binder/postBuild").splitlines() if line and not line.startswith(("#", "set "))]
    assert commands[0] == "python3 course_lib/setup/hosted.py torch,data,book,grading,serve"
    assert "course weights prepare" in commands


def test_binder_chapters_begin_with_the_profile_for_its_memory(tmp_path):
    (tmp_path / "notebooks").mkdir()
    names = [path.name for path in (ROOT / "notebooks").glob("*.ipynb")]
    for name in names:
        shutil.copy(ROOT / "notebooks" / name, tmp_path / "notebooks")
    (command,) = [line for line in read("binder/postBuild").splitlines() if line.startswith("sed ")]
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    for name in names:
        cells = json.loads((tmp_path / "notebooks" / name).read_text(encoding="utf-8"))["cells"]
        (given,) = ["".join(cell["source"]) for cell in cells if cell["id"] == "parameters"]
        assert given.startswith('profile = "binder"')


# --- pre-commit, citation, README ---


def test_hooks_are_local_and_have_the_pinned_versions():
    for repository in load(".pre-commit-config.yaml")["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            for dependency in hook.get("additional_dependencies", []):
                name, version = dependency.split("==")
                assert version == pin(name)


def test_the_hooks_check_style_types_spelling_and_notebooks():
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    names = {hook["id"] for hook in repository["hooks"]}
    assert names == {"ruff", "ruff-format", "mypy", "codespell", "nbstripout", "notebook-check"}


def test_the_pinned_packages_are_updated_as_one_set():
    updates = {update["package-ecosystem"]: update for update in load(".github/dependabot.yml")["updates"]}
    assert updates.keys() == {"pip", "github-actions"}
    for update in updates.values():
        assert [group["patterns"] for group in update["groups"].values()] == [["*"]]


@pytest.mark.parametrize("name", ["bug", "question", "wrong-number"])
def test_issue_forms_ask_for_what_is_needed(name):
    form = load(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "labels", "body"} == form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) >= 3
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_a_bug_report_asks_for_the_log_and_the_message():
    text = read(".github/ISSUE_TEMPLATE/bug.yml")
    for wanted in ("build/setup.log", "`course run`", "`course --version`"):
        assert wanted in text


def test_the_security_page_says_how_to_report_and_that_submissions_are_not_sandboxed():
    text = read("SECURITY.md")
    assert "*Report a vulnerability*" in text
    assert "without a sandbox" in text
    for outside in ("Submissions", "Models and adapters", "Checkpoints", "127.0.0.1"):
        assert outside in text


def test_the_citation_file_has_what_the_format_requires():
    citation = load("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert str(citation["version"]) == re.search(r'^version = "(.*)"', read("pyproject.toml"), re.MULTILINE).group(1)


def test_the_licence_file_has_both_licences():
    text = read("LICENSE")
    assert "MIT License" in text
    assert "creativecommons.org/licenses/by/4.0" in text


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_files_and_commands_that_the_pages_name_exist(page):
    text = read(page)
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
        assert (ROOT / target).exists(), f"{page} links to {target}, which is missing"
    targets = set(re.findall(r"`make (\w+)", text)) | set(re.findall(r"^make (\w+)", text, re.MULTILINE))
    assert targets
    assert targets <= set(re.search(r"\.PHONY: (.*)", read("Makefile")).group(1).split())


def test_readme_has_no_figure_left_to_fill_in():
    assert re.findall(r"\{\{\w+\}\}", read("README.md")) == []
