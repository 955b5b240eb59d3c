#!/usr/bin/env bash
# Without /proc/cpuinfo torch computes with its slowest kernels, and a float16 product raises an error.
#
# Library: torch 2.13.0 on a CPU (x86-64, Linux).
# Guess: /proc is for tools that look at processes. In a sandbox that hides it torch computes as outside, since the
#   processor itself says which instructions it has.
# Behaviour: torch asks /proc/cpuinfo. Where it cannot be read, one line on standard error says so, all kernels are those
#   of a processor without vector extensions ("DEFAULT"), and float32 and bfloat16 work. A product of two float16
#   matrices raises RuntimeError: "Failed to initialize cpuinfo!".
# Here: the sandbox of a grader that hides other processes must still show /proc/cpuinfo, or a right answer in 16 bits fails.
set -euo pipefail
packages=(torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

unshare --user --map-root-user --mount true || could_not_run "this system allows no user namespaces"
[ "$(uname -m)" = x86_64 ] || could_not_run "it was seen on x86-64"
python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import sys
import torch

print("torch", torch.__version__, "kernels for", torch.backends.cpu.get_cpu_capability())
torch.manual_seed(0)
a, b = torch.randn(2, 64, 64)
print("float32", torch.isfinite(a @ b).all().item(), "bfloat16", torch.isfinite(a.bfloat16() @ b.bfloat16()).all().item())
try:
    said = f"finite: {torch.isfinite(a.half() @ b.half()).all().item()}"
except RuntimeError as error:
    said = str(error)
print("float16", said)
if sys.argv[1] == "hidden":
    assert torch.backends.cpu.get_cpu_capability() == "DEFAULT", "the behaviour has changed"
    assert "Failed to initialize cpuinfo" in said, "the behaviour has changed"
else:
    assert said == "finite: True", "a product of float16 matrices fails with /proc too"
PYTHON
python=$folder/env/bin/python
echo "with /proc:"
"$python" -W ignore "$folder/check.py" shown || could_not_run "it fails with /proc too"
echo "with an empty /proc:"
if unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none /proc && exec "$@"' sh \
  "$python" -W ignore "$folder/check.py" hidden; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
