"""The arrows of the architecture point down only, and the command line starts light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csbench.cli import COMMANDS

PACKAGE = Path(__file__).parent.parent / "csbench"

# room -> what it may import from csbench at module level or inside functions
MAY_IMPORT = {
    "core": {"core", "errors"},
    "kernels": {"kernels", "errors", "core"},
    "sparse": {"sparse", "core", "errors"},
    "models": {"models", "core", "errors"},
    "graph": {"graph", "core", "errors", "sparse", "models"},
    "backends": {"backends", "graph", "sparse", "kernels", "core", "errors"},
    "bench": {
        "bench",
        "backends",
        "kernels",
        "graph",
        "models",
        "sparse",
        "core",
        "errors",
        "resources",
    },
    "training": {
        "training",
        "kernels",
        "backends",
        "graph",
        "models",
        "sparse",
        "core",
        "errors",
        "bench",
    },
    "report": {"report", "core", "errors", "resources"},
}


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_lies_below(room: str) -> None:
    allowed = MAY_IMPORT[room] | {"__version__"}
    for path in (PACKAGE / room).rglob("*.py"):
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "csbench" and len(parts) > 1:
                assert parts[1] in allowed, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("core", {"torch", "pandas", "rich", "click"}),
        ("report", {"torch", "click"}),
        ("bench", {"pandas", "click"}),
        ("sparse", {"pandas", "click"}),
        ("backends", {"pandas", "click"}),
    ],
)
def test_rooms_do_without(room: str, forbidden: set[str]) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for name in _imports(path):
            assert name.split(".")[0] not in forbidden, f"{path.relative_to(PACKAGE)}: {name}"


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)],
    ids=" ".join,
)
def test_help_imports_neither_torch_nor_pandas(arguments: list[str]) -> None:
    code = (
        "import sys; from csbench.cli import run; "
        f"code = run({arguments!r}); heavy = {{'torch', 'pandas', 'numpy'}} & set(sys.modules); "
        "print(heavy, file=sys.stderr); sys.exit(code or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
