"""Print numbers about the package's structure: layers, circles of imports, sizes.

    python tools/structure.py

A module may import from its own layer and from those below it; a test checks the numbers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "src" / "headstart"
PREDICTOR = REPOSITORY / "predictor" / "src" / "headstart_predict"  # below all layers of headstart
# From the bottom to the top: folders, and modules of the root.
LAYERS = (
    (PREDICTOR.name,),
    ("errors",),
    ("text", "files"),
    ("machine",),
    ("specs", "recipe_text"),
    ("recipe",),
    ("evaluation",),
    ("rundir",),
    ("data",),
    ("models",),
    ("views",),
    ("features",),
    ("plan",),
    ("training",),
    ("assessment",),
    ("comparison",),
    ("report",),
    ("auditing",),
    ("deployment",),
    ("selection",),
    ("workbench", "tracking"),
    ("studies",),
    ("photos",),
    ("cli",),
    ("__main__",),
)
# The package's own names: __init__ resolves them when asked, so importing it runs nothing.
ROOT = "headstart"


def modules() -> dict[str, Path]:
    """Every module of the two packages by its dotted name."""
    found = {}
    for package in (PACKAGE, PREDICTOR):
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(name: str, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a module imports, within functions too, for types alone not."""
    tree = ast.parse(known[name].read_text(encoding="utf-8"))
    found = set()
    for node in _run_nodes(tree):
        if isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
    return found - {name, ROOT}


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in (ROOT, PREDICTOR.name)


def _run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _run_nodes(child)


def room(name: str) -> str:
    """The folder, or module of the root, that a module belongs to."""
    if name.partition(".")[0] == PREDICTOR.name:
        return PREDICTOR.name
    return name.split(".")[1] if "." in name else name


def layer(name: str) -> int:
    """The number of a module's layer, 0 at the bottom. Raises KeyError for a room without one."""
    return {part: level for level, parts in enumerate(LAYERS) for part in parts}[room(name)]


def climbing(edges: dict[str, set[str]]) -> list[str]:
    """Imports from a layer above the importing module's own."""
    return [
        f"{name} imports {other}"
        for name, others in edges.items()
        for other in sorted(others)
        if name != ROOT and layer(other) > layer(name)
    ]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another (strongly connected, by Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in edges.get(name, ()):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group: list[str] = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in edges:
        if name not in index:
            visit(name)
    return found


def long_files(known: dict[str, Path], most: int = 400) -> list[str]:
    sizes = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in known.items()
    }
    return [f"{name}: {size} lines" for name, size in sizes.items() if size > most]


def long_functions(known: dict[str, Path], most: int = 60) -> list[str]:
    found = []
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > most:
                    found.append(f"{name}.{node.name}: {size} lines")
    return found


def main() -> None:
    known = modules()
    edges = {name: imports(name, known) for name in known}
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in known.values())
    print(f"{len(known)} modules, {lines:,} lines, {sum(map(len, edges.values()))} imports")
    root = [name for name, path in known.items() if path.parent == PACKAGE]
    for title, found in (
        ("modules at the root", root),
        ("circles of imports", [" <-> ".join(group) for group in circles(edges)]),
        ("imports that run back up", climbing(edges)),
        ("files over 400 lines", long_files(known)),
        ("functions over 60 lines", long_functions(known)),
    ):
        print(f"{title}: {len(found)}")
        for line in found:
            print(f"  {line}")


if __name__ == "__main__":
    main()
