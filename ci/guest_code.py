"""What vermin does not see of "runs in any guest": only the standard library, and no `X | Y` at run time.

usage: guest_code.py FOLDER...   (each a component: a folder of packages)
Prints what it found, one a line, and exits 1 if there is anything.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator
from pathlib import Path

# What a component's backends may import besides; each says what is missing where it is not installed.
OPTIONAL = {"desktop": {"pyperclip"}}
ANNOTATIONS = ("annotation", "returns")
TYPES = {name for name, value in vars(builtins).items() if isinstance(value, type)}


def findings(tree: ast.Module, allowed: frozenset[str]) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of one module, in no order; `allowed` are the top-level names it may import."""
    if has_annotations(tree) and not postpones_annotations(tree):
        yield 1, "lacks `from __future__ import annotations`"
    for line, name in imports(tree):
        if name not in allowed:
            yield line, f"imports {name}, which is not in the standard library"
    for node in walk_evaluated(tree):
        if isinstance(node, ast.BinOp) and is_union(node):
            yield node.lineno, "`X | Y` outside an annotation needs Python 3.10"


def has_annotations(tree: ast.Module) -> bool:
    return any(getattr(node, field, None) for node in ast.walk(tree) for field in ANNOTATIONS)


def postpones_annotations(tree: ast.Module) -> bool:
    """Whether annotations stay text, and so may say what only a newer Python understands."""
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(alias.name == "annotations" for alias in node.names)
        for node in tree.body
    )


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the top-level name of every absolute import, wherever in the module it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]


def walk_evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those of annotations."""
    yield node
    for field, value in ast.iter_fields(node):
        if field not in ANNOTATIONS:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk_evaluated(child)


def is_union(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.BitOr) and (is_type(node.left) or is_type(node.right))


def is_type(node: ast.expr) -> bool:
    """Whether it can only be a type (`int`, `list[int]`, `None`) in a union."""
    if isinstance(node, ast.Subscript):
        node = node.value
    return (isinstance(node, ast.Constant) and node.value is None) or (isinstance(node, ast.Name) and node.id in TYPES)


def main(folders: list[str]) -> int:
    packages = [init.parent for folder in folders for init in Path(folder).glob("*/__init__.py")]
    if not packages:
        sys.exit(f"no package in {' '.join(folders) or 'nothing'}")
    allowed = sys.stdlib_module_names | {package.name for package in packages}
    count = 0
    for package in packages:
        names = allowed | OPTIONAL.get(package.parent.name, set())
        for path in sorted(package.rglob("*.py")):
            for line, wrong in sorted(findings(ast.parse(path.read_text(), str(path)), names)):
                print(f"{path}:{line}: {wrong}")
                count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
