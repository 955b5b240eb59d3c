"""What a submission's process leaves out of PyTorch, and that nobody who needs it misses it.

Each case is a process of its own: whatever another test has imported would hide what is imported here.
"""

import subprocess
import sys

import pytest

from autograder.judging import light
from autograder.judging.stage import Stage

SLOW = ["torch._dynamo.symbolic_convert", "torch._inductor", "sympy"]
SLOW += ["torch.distributed.tensor", "torch.distributed.fsdp"]
START = f"""
import sys
sys.path.insert(0, {str(light.__file__.rpartition("/")[0])!r})
import light
light.run_imports({{statements!r}})
slow = {{slow!r}}
def imported():
    return [name for name in slow if name in sys.modules]
"""


def said(statements, code, options=()):
    """What a program prints that begins with an assignment's imports."""
    program = START.format(statements=statements, slow=SLOW) + code
    done = subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


TRAIN = """
import torch
weight = torch.nn.Parameter(torch.ones(3))
for kind in (torch.optim.SGD, torch.optim.AdamW):
    optimizer = kind([weight], lr=0.5)
    (weight * 2).backward(torch.tensor([1.0, 1.0, 0.0]))
    optimizer.step()
    optimizer.zero_grad()
    print([round(number, 4) for number in weight.tolist()])
try:
    (weight * 2).backward(torch.ones(2))
except RuntimeError as error:
    print(str(error).split(":")[0].partition(" of")[0])
"""


def test_training_is_as_ever_and_imports_no_compiler():
    found = said("import torch", TRAIN + "print(imported())")
    whole = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, timeout=120, check=True)
    assert found == [*whole.stdout.splitlines(), "[]"]
    assert found[0] == "[0.0, 0.0, 1.0]"  # 1 - 0.5 * 2


def test_the_models_of_transformers_and_adapters_of_peft_import_none(tmp_path):
    """Among the packages that an answer sees: PEFT imports others that it finds."""
    Stage(tmp_path / "stage", [], ["torch", "transformers", "peft"])
    see = f"sys.path.insert(0, {str(tmp_path / 'stage' / 'site')!r})"
    code = """
import torch
config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=2, target_modules=["q_proj"]))
ids = torch.tensor([[1, 2, 3]])
model(input_ids=ids, labels=ids).loss.backward()
print(sum(p.grad is not None for p in model.parameters()), imported())
"""
    statements = "from peft import LoraConfig, get_peft_model\nfrom transformers import LlamaConfig, LlamaForCausalLM"
    found = said(f"import sys\n{see}", f"{see}\nlight.run_imports({statements!r})\n{statements}\n{code}", ("-I", "-S"))
    assert found == ["2 []"]


def test_who_compiles_gets_the_compiler():
    code = """
import torch
calls = []
def backend(graph, inputs):
    calls.append(len(graph.graph.nodes))
    return graph.forward
print(torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.zeros(2)).tolist(), len(calls))
import torch._dynamo
print(isinstance(torch._dynamo, light.StandIn), isinstance(sys.modules["torch._dynamo"], light.StandIn))
"""
    assert said("import torch", code) == ["[1.0, 1.0] 1", "False False"]


@pytest.mark.parametrize("statement", ["import torch._dynamo.config as config", "from torch._dynamo import config"])
def test_a_submodule_is_the_one_that_the_compiler_uses(statement):
    code = f"""
{statement}
import torch._dynamo.eval_frame
print(torch._dynamo.eval_frame.config is config, sys.modules["torch._dynamo.config"] is config)
print(config.__spec__.origin == config.__file__)
"""
    assert said("import torch", code) == ["True True", "True"]


def test_sizes_that_are_no_numbers_are_compared_by_the_real_function():
    code = """
from torch.fx.experimental.symbolic_shapes import expect_true, guard_or_false, sym_eq
print(sym_eq((2, 3), (2, 3)), sym_eq((2,), (3,)), sym_eq(4, 4), sym_eq([1], [1]), expect_true(True), expect_true(False))
try:
    sym_eq("a", "a")
except AssertionError as error:
    print(error)
"""
    compared = said("import torch", code)
    assert compared[0] == "True False True True True False"
    assert compared[1].startswith("unexpected sym_eq between")


def test_those_who_look_around_wake_nobody():
    code = """
import inspect, torch
print([inspect.getmodule(torch.nn.Linear).__name__, hasattr(torch._dynamo, "__wrapped__"), imported()])
"""
    assert said("import torch", code) == ["['torch.nn.modules.linear', False, []]"]


def test_an_assignment_without_pytorch_imports_none_of_it():
    assert said("import math", "print('torch' in sys.modules)") == ["False"]
    assert said("from safetensors.torch import load_file", "print('torch' in sys.modules)") == ["True"]


def test_garbage_is_collected_again_afterwards():
    assert said("import math", "import gc; print(gc.isenabled())") == ["True"]


def test_stages_side_by_side_share_the_links_to_their_libraries(tmp_path):
    wanted = {"1": ["torch"], "2": ["torch"], "3": ["numpy"]}
    one, other, plain = (Stage(tmp_path / name, [], libraries) for name, libraries in wanted.items())
    places = [(stage.folder / "site").resolve() for stage in (one, other, plain)]
    assert places[0] == places[1] != places[2]
    assert (places[0] / "torch").is_symlink()
    assert not (places[2] / "torch").exists()
