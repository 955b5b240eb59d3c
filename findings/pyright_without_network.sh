#!/usr/bin/env bash
# pyright 1.1.414 from PyPI: the wheel carries the type checker, and what it may fetch is Node.js alone.
#
# Guess: the package is a thin wrapper which installs the npm package at its first run, as its README says ("then install
# the pyright npm package using npm"), and fails on a machine without a network.
# Behaviour: with node on the PATH it checks types without any network. Without node it tries to fetch Node.js, and fails.
# Here: the course uses mypy, which needs neither.
set -euo pipefail
packages=(pyright==1.1.414)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

command -v node > /dev/null || could_not_run "there is no node on the PATH"
python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"
"$folder/env/bin/python" -m pip --disable-pip-version-check list 2> /dev/null | grep '^pyright '

printf 'x: int = "a"\n' > "$folder/wrong.py"
mkdir "$folder/home" "$folder/node"
ln -s "$(command -v node)" "$folder/node/node"
# A proxy that nobody answers stands for a machine without a network; HOME is empty, so that no cache helps.
check() {
  (cd "$folder" && env -i HOME="$folder/home" PATH="$1" PYRIGHT_PYTHON_IGNORE_WARNINGS=1 npm_config_registry=http://127.0.0.1:9 \
    http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9 env/bin/python -m pyright wrong.py 2>&1) || true
}
with_node=$(check "$folder/node")
without_node=$(check "$folder/env/bin")
printf -- '--- with node\n%s\n--- without node\n%s\n' "$with_node" "$(tail -n 3 <<< "$without_node")"

if grep -q '^1 error' <<< "$with_node" && grep -q 'nodeenv' <<< "$without_node"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
