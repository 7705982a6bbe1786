"""The parts keep apart: the core imports none of them, they do not import one another, and tasks know no parser."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("pretext", "contrastive", "eval")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources(folder: str) -> list[Path]:
    linked = [ROOT / "ssl_toolkit" / part for part in (*PARTS, "configs")]
    return [
        path
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not any(link in path.parents for link in linked) and not {"cli", "tasks"} & {*path.relative_to(ROOT).parts}
    ]


@pytest.mark.parametrize("part", PARTS)
def test_parts_import_the_core_only(part: str) -> None:
    others = tuple(f"ssl_toolkit.{other}" for other in (*PARTS, "cli", "tasks") if other != part)
    assert sources(part)
    for path in sources(part):
        assert not [name for name in imported(path) if name.startswith(others)], path


def test_core_imports_no_part() -> None:
    front_door = ROOT / "ssl_toolkit" / "__init__.py"  # offers names of all parts, and imports none until asked
    core = [path for path in sources("ssl_toolkit") if path != front_door]
    assert len(core) > 10
    for path in core:
        parts = tuple(f"ssl_toolkit.{part}" for part in (*PARTS, "cli", "tasks"))
        assert not [name for name in imported(path) if name.startswith(parts)], path


def test_tasks_know_no_parser() -> None:
    tasks = sorted((ROOT / "ssl_toolkit" / "tasks").glob("*.py"))
    assert len(tasks) > 5
    for path in tasks:
        assert not [
            name for name in imported(path) if name.startswith(("ssl_toolkit.cli", "jsonargparse", "argparse"))
        ], path
