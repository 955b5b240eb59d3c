"""Those parts of the course's library that answers may use, cut out of their modules: the rest is not in the sandbox.

A name is taken with what its code refers to, module by module. So `course_lib.scratch.GPT` brings its layers and the
autograd, and nothing of the LoRA layer that lies in the same package.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path

LIBRARY = "course_lib"
PACKAGE = '''"""What the answers may use of {name}: {names}."""

{imports}

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(f"your answer hands its work to {name}.{{name}}: write it yourself")
'''


def write(folder: Path, names: Iterable[str]) -> None:
    """Write a small `course_lib` with these names.

    Args:
        folder: Where the package goes; it is not there yet.
        names: Such as "course_lib.scratch.GPT": a package, and a name that it exports.
    """
    cut = _Cut()
    exported: dict[str, list[str]] = {}
    for full in names:
        package, _, name = full.rpartition(".")
        exported.setdefault(package, []).append(name)
        cut.need(package, name)
    for module in [module for module in cut.kept if module not in exported]:
        _put(folder, module, cut.source(module))
    for package, each in exported.items():
        imports = "\n".join(cut.origin(package, name) for name in each)
        _put(folder, package, PACKAGE.format(name=package, names=", ".join(each), imports=imports))
    for package in {*exported, *cut.kept}:
        while package := package.rpartition(".")[0]:
            init = folder.joinpath(*package.split("."), "__init__.py")
            if not init.exists():
                init.touch()


def _put(folder: Path, module: str, source: str) -> None:
    place = folder.joinpath(*module.split("."))
    is_package = _path(module).name == "__init__.py"
    place = place / "__init__.py" if is_package else place.with_suffix(".py")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(source)


def _path(module: str) -> Path:
    """A module's file, found without importing anything."""
    import course_lib

    place = Path(course_lib.__file__).parent.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


class _Module:
    """A module's statements by the names that they define."""

    def __init__(self, module: str) -> None:
        self.text = _path(module).read_text()
        self.tree = ast.parse(self.text)

    @cached_property
    def defined(self) -> dict[str, ast.stmt]:
        """The statement at the top level that defines a name."""
        return {name: node for node in self.tree.body for name in _names(node)}

    def lines(self, node: ast.stmt) -> str:
        """A statement as it is written, with its decorators."""
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
        return "\n".join(self.text.splitlines()[first - 1 : node.end_lineno])


@lru_cache
def _module(name: str) -> _Module:
    return _Module(name)


class _Cut:
    """What is kept of each module."""

    def __init__(self) -> None:
        self.kept: dict[str, set[str]] = {}

    def need(self, module: str, name: str) -> None:
        """Keep a name, and what it refers to."""
        if name in self.kept.setdefault(module, set()):
            return
        self.kept[module].add(name)
        node = _module(module).defined.get(name)
        if node is None:
            raise ImportError(f"{module} has no {name}")
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._follow(node, name)
            return
        defined = _module(module).defined
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and inner.id in defined:
                self.need(module, inner.id)
            elif isinstance(inner, ast.Constant) and inner.value in defined:  # an annotation in quotes
                self.need(module, inner.value)
            elif isinstance(inner, ast.ImportFrom):
                for alias in inner.names:
                    self._follow(inner, alias.asname or alias.name)

    def _follow(self, node: ast.Import | ast.ImportFrom, name: str) -> None:
        """Keep what an import brings from the library."""
        home = node.module if isinstance(node, ast.ImportFrom) else None
        if home and home.split(".")[0] == LIBRARY:
            original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
            if original not in _module(home).defined and _path(f"{home}.{original}").is_file():
                for each in _module(f"{home}.{original}").defined:  # a module of the package: all of it
                    self.need(f"{home}.{original}", each)
                return
            self.need(home, original)

    def origin(self, package: str, name: str) -> str:
        """The import by which a package exports a name."""
        node = _module(package).defined[name]
        assert isinstance(node, ast.ImportFrom), f"{package} defines {name} itself"
        return _import(node, {name})

    def source(self, module: str) -> str:
        """What is kept of a module, as Python."""
        kept, found = self.kept[module], []
        for node in _module(module).tree.body:
            mine = kept & set(_names(node))
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                found.append(_module(module).lines(node))
            elif mine and isinstance(node, ast.Import | ast.ImportFrom):
                found.append(_import(node, mine))
            elif mine:
                found.append(_module(module).lines(node))
        return "\n\n".join(found) + "\n"


def _import(node: ast.Import | ast.ImportFrom, names: set[str]) -> str:
    """An import statement of these names only."""
    aliases = [alias for alias in node.names if (alias.asname or alias.name).split(".")[0] in names]
    if isinstance(node, ast.Import):
        return ast.unparse(ast.Import(aliases))
    return ast.unparse(ast.ImportFrom(node.module, aliases, node.level))


def _names(node: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top level defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.If | ast.Try | ast.For | ast.With):
        stored = [each for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]
        yield from (each.id for each in stored)
