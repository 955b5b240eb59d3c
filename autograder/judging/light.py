"""PyTorch and transformers without their slowest imports: PyTorch's compiler, its symbolic shapes, and its libraries
for several processes. Hardly any answer needs them. The file stands alone, see `wire`.

They are imported as a side effect. Functions are marked "leave this one out when you compile", an optimiser's step says
that a compiler would have to stop there, and two shapes are compared as a compiler would. The stand-ins do what the
real functions do where nothing is compiled. Whoever asks a stand-in for more, such as `torch.compile`, imports the real
module at that moment.
"""

import gc
import importlib
import importlib.machinery
import importlib.util
import re
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

HEAVY = re.compile(r"^(?:import|from) +(?:torch|transformers|peft|safetensors\.torch)\b", re.M)
COMPILER = "torch._dynamo"
MASKS = f"{COMPILER}._trace_wrapped_higher_order_op"  # of which transformers uses a class, and which needs no other
SHAPES = "torch.fx.experimental.symbolic_shapes"


def run_imports(statements: str) -> None:
    """Do the imports of an assignment.

    Args:
        statements: Import statements.
    """
    gc.disable()  # what modules define stays: looking for garbage in it takes a tenth of the time
    if HEAVY.search(statements):
        with suppress(ImportError):  # the statement that needs it complains
            lighten()
    exec(compile(statements, "<imports>", "exec"), {})
    gc.enable()


def lighten() -> None:
    """Import PyTorch, and keep other modules from importing more of it than they use."""
    import torch

    torch.distributed.is_available = lambda: False  # so transformers asks for nothing of it
    marks = ("allow_in_graph", "assume_constant_result", "disable")
    _stand_in(COMPILER, graph_break=lambda: None, **dict.fromkeys(marks, _unmarked))
    _stand_in(SHAPES, expect_true=_expect_true, sym_eq=_sym_eq)
    if isinstance(sys.modules[COMPILER], StandIn):
        with suppress(ImportError):  # a PyTorch that keeps the class elsewhere
            _import_alone(MASKS)
    sys.meta_path.insert(0, Submodules)


class StandIn(ModuleType):
    """A module of which some functions are there; whatever else is asked for comes from the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # those who only look around, such as `inspect`
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class Submodules:
    """Where Python looks first for a module: the package of a submodule must be the real one."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The place of a module, as `importlib.abc.MetaPathFinder` has it.

        Args:
            name: The module's full name.
            path: Where its package looks for modules.
            target: The module that is imported anew, where one is.

        Returns:
            The place; None where another finder must look.
        """
        package = name.rpartition(".")[0]
        if not isinstance(sys.modules.get(package), StandIn):
            return None
        _real(package)
        if name not in sys.modules:
            return None
        loaded = Loaded(sys.modules.pop(name))  # Python loads it anew where it finds it there
        return importlib.machinery.ModuleSpec(name, loaded)  # type: ignore[arg-type]


class Loaded:
    """A loader for a module that its package has loaded already."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module itself."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it was."""
        vars(module)["__spec__"] = self.spec  # some modules of PyTorch's refuse what is set in the usual way


def _stand_in(name: str, **functions: Any) -> None:
    """Put a stand-in in the place of a module that is not imported yet.

    Args:
        name: The module's.
        functions: What the stand-in has.
    """
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = StandIn
    vars(module).update(functions)
    sys.modules[name] = module
    package, _, last = name.rpartition(".")
    setattr(sys.modules[package], last, module)


def _real(name: str) -> ModuleType:
    """The module itself, in the place of its stand-in."""
    if isinstance(sys.modules.get(name), StandIn):
        del sys.modules[name]
    return importlib.import_module(name)


def _import_alone(name: str) -> None:
    """Import a module, but not its package, in whose place there is a stand-in."""
    spec = importlib.machinery.PathFinder.find_spec(name, sys.modules[name.rpartition(".")[0]].__path__)
    if spec is None or spec.loader is None:
        return
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError:
        del sys.modules[name]
        raise


def _unmarked(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator that leaves a function as it is, with arguments of its own or without."""
    return function if function is not None else _unmarked


def _expect_true(value: Any, *skip: int) -> bool:
    """Whether a comparison of sizes is true; one of symbols is not for us."""
    return value if isinstance(value, bool) else _real(SHAPES).expect_true(value, *skip)


def _sym_eq(one: Any, other: Any) -> Any:
    """Whether two shapes of plain numbers are equal; symbols are not for us."""
    if isinstance(one, tuple) and isinstance(other, tuple) and {type(size) for size in (*one, *other)} <= {int}:
        return tuple(one) == tuple(other)
    return _real(SHAPES).sym_eq(one, other)
