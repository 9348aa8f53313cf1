"""The shape of the tree: who may import whom, where keys are spelled, how much a file may hold."""

import ast
from pathlib import Path

import pytest

from tests.services import ROOT

FREE = {"redis_config", "chat.models", "chat.errors"}  # import nothing of ours
PACKAGES = ("chat", "pipeline", "bridge")
FILES = [ROOT / "redis_config.py", ROOT / "app.py", *(f for p in PACKAGES for f in sorted((ROOT / p).glob("*.py")))]
MODULES = {f.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): f for f in FILES}


def imports(path: Path) -> set[str]:
    """The modules of ours that `path` imports; `from chat import api` counts as chat.api."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= parts & MODULES.keys() or {node.module}
    return {name for name in found if name.split(".")[0] in (*PACKAGES, "redis_config", "app")}


def allowed(module: str, imported: str) -> bool:
    package, target = module.split(".")[0], imported.split(".")[0]
    if module == "app":
        return True
    if module in ("redis_config", "chat.errors"):
        return False
    if module == "chat.models":
        return imported == "chat.errors"  # the rules for names are errors when they are broken
    if target == "app":
        return False
    if package == "pipeline":
        return target == "pipeline" or imported in FREE
    if package == "bridge":
        return target in ("bridge", "pipeline") or imported in FREE
    return target in ("chat", "pipeline", "redis_config")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_follow_the_table(module: str) -> None:
    assert [name for name in imports(MODULES[module]) if not allowed(module, name)] == []


def test_the_import_rule_can_fail() -> None:
    assert not allowed("pipeline.producer", "chat.hub")
    assert not allowed("chat.hub", "bridge.sql")
    assert not allowed("bridge.sql", "chat.session")


@pytest.mark.parametrize("package", PACKAGES)
def test_init_holds_a_docstring_at_most(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    assert len(tree.body) == 1 and ast.get_docstring(tree)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_keys_are_spelled_in_one_place(path: Path) -> None:
    if path.name in (
        "keys.py",
        "redis_config.py",
    ):  # redis_config: the prefixes, and `partitions` before there are keys
        return
    prefixes = ("channel:", "message:", "log:", "lease:", "idem:", "batch:", "user:", "presence:", "dead:")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith(prefixes) or " " in node.value, f"{path}:{node.lineno} {node.value!r}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_hold_one_idea(path: Path) -> None:
    """Statements are counted, not lines, so that air costs nothing."""
    tree = ast.parse(path.read_text())
    assert sum(isinstance(node, ast.stmt) for node in ast.walk(tree)) <= 320
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, f"{path}:{node.lineno} {node.name}"


def test_modules_say_what_they_are() -> None:
    for module, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text())), module
