"""llama.cpp as a peer, by way of node-llama-cpp, which brings it ready-made: the packaged 4-bit file, token by token.

    mkdir llama && cd llama && npm init -y && npm install node-llama-cpp

It runs in a process of its own, in each round between ours, with as many threads as it is told: on two cores it is
faster with one.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from course_lib.benchmarks.generate import Run
from course_lib.errors import CourseError

SCRIPT = """
import { createInterface } from "node:readline";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const { path, prompt, count, threads } = JSON.parse(process.argv.at(-1));
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: path });
const context = await model.createContext({ contextSize: prompt.length + count + 8, threads });
const sequence = context.getSequence();
console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  await sequence.clearHistory();
  const started = performance.now();
  const times = [];
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    times.push(performance.now() - started);
    if (times.length >= count) break;
  }
  console.log(JSON.stringify({ first: times[0], last: times.at(-1), count: times.length }));
}
"""


class LlamaCpp:
    """A process of llama.cpp that generates on demand. Use it in a `with` statement.

    Args:
        folder: where node-llama-cpp was installed.
        gguf: the weights.
        prompt: token ids, the same as the others get.
        new: how many tokens to add, greedily.
        threads: llama.cpp's.

    Raises:
        CourseError: node or node-llama-cpp is missing, or llama.cpp cannot load the file.
    """

    def __init__(self, folder: Path, gguf: Path, prompt: list[int], new: int, threads: int):
        if shutil.which("node") is None:
            raise CourseError("llama.cpp is run by node, and there is no node here: sudo apt install nodejs npm")
        if not (folder / "node_modules" / "node-llama-cpp").is_dir():
            raise CourseError(f"{folder} holds no node-llama-cpp: run `npm install node-llama-cpp` in it.")
        # A file beside the package: node looks there for it, and its own helper process does not start from `node -e`.
        with tempfile.NamedTemporaryFile("w", suffix=".mjs", dir=folder, delete=False) as script:
            script.write(SCRIPT)
        self.script = Path(script.name)
        task = {"path": str(gguf), "prompt": prompt, "count": new, "threads": threads}
        self.process = subprocess.Popen(
            ["node", str(self.script), json.dumps(task)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._answer("ready")

    def _answer(self, wanted: str = "") -> str:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline().strip()
        if not line or (wanted and line != wanted):
            self.process.kill()
            self.script.unlink(missing_ok=True)
            raise CourseError(f"llama.cpp stopped: {line} {self.process.stderr.read()[-500:]}")
        return line

    def run(self) -> Run:
        """One generation."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        told = json.loads(self._answer())
        return Run(told["first"] / 1e3, told["last"] / 1e3, told["count"], 1)

    def __enter__(self) -> Callable[[], Run]:
        return self.run

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.script.unlink(missing_ok=True)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
