"""Install the course into the Python that runs this file: for Binder, Colab and hosted workflows.

    python3 course_lib/setup/hosted.py torch                    torch alone, by the same decision as `make setup`
    python3 course_lib/setup/hosted.py torch,data,book,grading,serve  torch, then the pinned packages of these extras

On your own machine use `make setup`, which leaves the system's Python alone. NEWEST=1 takes the newest releases instead
of the pins. Standard library only, 3.6 syntax.
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import torch_build  # type: ignore[import-not-found]  # noqa: E402
import virtual_environment  # type: ignore[import-not-found]  # noqa: E402


def install(extras: list, newest: bool = False) -> None:
    """Install torch and what the extras name.

    Args:
        extras: names of extras in pyproject.toml; ["torch"] alone installs torch and nothing else.
        newest: take the newest releases instead of the pins.

    Raises:
        CalledProcessError: pip failed; its own message has been printed.
        ValueError: TORCH asks for what cannot be had.
    """
    pip = [sys.executable, "-m", "pip"]
    pins = [] if newest else ["-c", os.path.join(ROOT, "constraints.txt")]
    requirement = "torch" if newest else virtual_environment.pinned(ROOT, "torch")
    choice = torch_build.choose(
        requirement,
        os.environ.get("TORCH", ""),
        os.environ.get("TORCH_INDEX", ""),
        torch_build.wants_cuda_here(),
        torch_build.asker(pip, requirement),
    )
    print("set-up: " + choice.why, flush=True)
    if newest:  # an old pip resolves the same names to other, older releases
        subprocess.run(pip + ["install", "--no-cache-dir", "--upgrade", "pip"], check=True)
    if choice.index:  # an index of torch's wheels has not the pinned versions of what torch needs: pip's own has
        source = ["--no-deps", "--index-url", choice.index]
        subprocess.run(pip + ["install", "--no-cache-dir", *pins, *source, requirement], check=True)
    subprocess.run(pip + ["install", "--no-cache-dir", *pins, requirement], check=True)
    if extras == ["torch"]:
        return
    subprocess.run(pip + ["install", "--no-cache-dir", *pins, "hatchling", "editables"], check=True)
    wanted = "{}[{}]".format(ROOT, ",".join(extras))
    subprocess.run(pip + ["install", "--no-cache-dir", *pins, "--no-build-isolation", "-e", wanted], check=True)
    carriers = list(virtual_environment.CARRIERS)
    subprocess.run(pip + ["install", "--no-cache-dir", "--no-deps", *pins, *carriers], check=True)


def main(arguments: list) -> int:
    """Install the extras named in the first argument, separated by commas."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print((__doc__ or "").strip())
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    try:
        install(arguments[0].split(","), newest=bool(os.environ.get("NEWEST")))
    except (ValueError, virtual_environment.SetupError) as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print("set-up: pip could not install what is needed; its messages are above.", file=sys.stderr)
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
