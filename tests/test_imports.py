"""The order of imports, read from the sources: packages import one way, at the top of the file, without cycles.

The checks are ordinary functions over a dict from module name to source, so that the second half of this file can show
each of them failing on sources made up for the purpose.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = "chainrule"
SOURCE_FOLDER = Path(__file__).parents[1] / "src" / ROOT

# Which packages each package may import from. What those import may be imported too. Every package stands below all
# that it imports, so the table cannot contain a cycle; reading it downwards is reading a graph's life.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "ir": {"core"},
    "grad": {"ir"},
    "batching": {"ir"},
    "passes": {"ir"},
    "engines": {"ir"},  # what all engines share; the engines themselves are siblings that never import each other
    "engines.reference": {"engines"},
    "engines.cpu": {"engines"},
    "engines.xla": {"engines"},
    "trace": {"ir", "engines.reference"},  # an operation on concrete arrays is computed by its definition
    "ops": {"trace"},
    "transforms": {"trace", "grad", "batching", "passes", "engines.reference", "engines.cpu", "engines.xla"},
    "insight": {"transforms", "ops"},
    "nn": {"ops"},
    "optim": {"ops"},
    "data": {"ops"},
    "metrics": {"core"},
    "report": {"metrics"},
    "train": {"transforms", "insight", "optim", "data", "nn", "metrics"},
    "runs": {"train"},
    "sklearn": {"train"},
    "tabular": {"runs", "report"},
    "testing": {"transforms"},
    "cli": {"tabular", "testing", "insight"},
    "studio": {"tabular", "testing"},
}
FORBIDDEN_NAMES = re.compile(r"(utils?|helpers?|common|misc)$|new_")
MOST_LINES = 520


class Import(NamedTuple):
    importer: str
    line: int
    target: str  # the module imported
    late: bool  # inside a function
    types_only: bool  # under `if TYPE_CHECKING:`


# --- reading the sources ----------------------------------------------------------------------------------------------


def read_sources(folder: Path) -> dict[str, str]:
    """Source text by module name; a package's ``__init__`` has the name of the package."""
    sources = {}
    for file in sorted(folder.rglob("*.py")):
        parts = [ROOT, *file.relative_to(folder).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = file.read_text(encoding="utf-8")
    return sources


def imports_of(module: str, sources: dict[str, str]) -> list[Import]:
    """All imports of this project's modules in one module, also relative ones and ``importlib.import_module("…")``."""
    is_package = any(name.startswith(module + ".") for name in sources)
    return [
        Import(module, node.lineno, target, late, types_only)
        for node, late, types_only in _walk(ast.parse(sources[module]), late=False, types_only=False)
        for target in _targets(node, module, is_package, sources)
        if target == ROOT or target.startswith(ROOT + ".")
    ]


def _walk(node: ast.AST, *, late: bool, types_only: bool) -> Iterator[tuple[ast.stmt | ast.expr, bool, bool]]:
    if isinstance(node, ast.stmt | ast.expr):
        yield node, late, types_only
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        late = True
    for field, value in ast.iter_fields(node):
        guarded = isinstance(node, ast.If) and field == "body" and _is_type_checking(node.test)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child, late=late, types_only=types_only or guarded)


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _targets(node: ast.AST, module: str, is_package: bool, sources: dict[str, str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(node, module, is_package)
        submodules = [f"{base}.{alias.name}" for alias in node.names]
        return [name if name in sources else base for name in submodules]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in (
        "importlib.import_module",
        "import_module",
        "__import__",
    ):
        return [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return []


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    here = module.split(".")
    base = here[: len(here) - node.level + (1 if is_package else 0)]
    return ".".join([*base, *([node.module] if node.module else [])])


# --- the checks: each returns its findings, one sentence each ---------------------------------------------------------


def package_of(module: str, table: dict[str, set[str]]) -> str | None:
    """The longest entry of the table that ``module`` lies in; "" for the root package and its ``__main__``."""
    if module in (ROOT, f"{ROOT}.__main__"):
        return ""
    parts = module.split(".")[1:]
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in table), None)


def allowed_packages(table: dict[str, set[str]]) -> dict[str, set[str]]:
    """Each package with everything that it may import, directly or through others. Needs the table in order."""
    closed: dict[str, set[str]] = {}
    for package, direct in table.items():
        unknown = direct - closed.keys()
        if unknown:
            raise ValueError(f"{package} may import {sorted(unknown)}, which must stand above it in the table")
        closed[package] = direct.union(*(closed[name] for name in direct))
    return closed


def wrong_directions(sources: dict[str, str], table: dict[str, set[str]]) -> list[str]:
    allowed = allowed_packages(table)
    findings = []
    for module in sources:
        package = package_of(module, table)
        if package is None:
            findings.append(f"{module} lies in no package of the table MAY_IMPORT")
            continue
        if package == "":
            continue
        for found in imports_of(module, sources):
            target = package_of(found.target, table)
            where = f"{module}, line {found.line}"
            if target is None:
                findings.append(f"{where}: imports {found.target}, which lies in no package of the table MAY_IMPORT")
            elif target == "":
                findings.append(f"{where}: imports the root package {ROOT}; import the module that defines the name")
            elif target != package and target not in allowed[package]:
                may = ", ".join(sorted(allowed[package])) or "nothing"
                findings.append(f"{where}: {package} imports {found.target}, but {package} may import only {may}")
    return findings


def late_imports(sources: dict[str, str]) -> list[str]:
    return [
        f"{module}, line {found.line}: imports {found.target} inside a function; move it to the top of the file"
        for module in sources
        for found in imports_of(module, sources)
        if found.late
    ]


def cycles(sources: dict[str, str]) -> list[str]:
    """Each group of modules that import each other when they are loaded, shown as one closed path."""
    graph = {
        module: sorted({i.target for i in imports_of(module, sources) if i.target in sources and not i.types_only})
        for module in sources
    }
    findings: list[str] = []
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            findings.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in finished:
            for target in graph[module]:
                visit(target, [*path, module])
            finished.add(module)

    for module in graph:
        visit(module, [])
    return findings


def forbidden_names(sources: dict[str, str]) -> list[str]:
    return [
        f"{module}: '{part}' does not say what is in it; name the subject"
        for module in sources
        for part in module.split(".")[-1:]
        if FORBIDDEN_NAMES.match(part)
    ]


def long_files(sources: dict[str, str]) -> list[str]:
    counted = {module: len(source.splitlines()) for module, source in sources.items()}
    return [
        f"{module} has {lines} lines; split it by subject (at most about 500)"
        for module, lines in counted.items()
        if lines > MOST_LINES
    ]


# --- this project -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    found = read_sources(SOURCE_FOLDER)
    assert f"{ROOT}.core.errors" in found, f"no sources under {SOURCE_FOLDER}"
    return found


def test_packages_import_one_way(sources: dict[str, str]) -> None:
    assert not (findings := wrong_directions(sources, MAY_IMPORT)), "\n".join(findings)


def test_no_module_imports_another_late(sources: dict[str, str]) -> None:
    assert not (findings := late_imports(sources)), "\n".join(findings)


def test_no_modules_import_each_other(sources: dict[str, str]) -> None:
    assert not (findings := cycles(sources)), "\n".join(findings)


def test_modules_are_named_after_their_subject(sources: dict[str, str]) -> None:
    assert not (findings := forbidden_names(sources)), "\n".join(findings)


def test_files_are_short(sources: dict[str, str]) -> None:
    assert not (findings := long_files(sources)), "\n".join(findings)


# --- the checks themselves --------------------------------------------------------------------------------------------


def test_an_import_against_the_order_is_found() -> None:
    made_up = {
        "chainrule.core.errors": "",
        "chainrule.ir.graph": "from chainrule.core.errors import GraphError\nfrom chainrule.nn import Linear\n",
        "chainrule.nn": "",
    }
    assert wrong_directions(made_up, MAY_IMPORT) == [
        "chainrule.ir.graph, line 2: ir imports chainrule.nn, but ir may import only core"
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "import chainrule.engines.cpu.emit",
        "from chainrule.engines.cpu import emit",
        "from chainrule.engines import cpu",
        "from ..cpu import emit",
        "from ..cpu.emit import render",
        "import importlib\nimportlib.import_module('chainrule.engines.cpu')",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from chainrule.engines.cpu import emit",
    ],
)
def test_engines_that_import_each_other_are_found_in_every_spelling(statement: str) -> None:
    made_up = {
        "chainrule.engines": "",
        "chainrule.engines.reference": "",
        "chainrule.engines.reference.run": statement,
        "chainrule.engines.cpu": "",
        "chainrule.engines.cpu.emit": "",
    }
    [finding] = wrong_directions(made_up, MAY_IMPORT)
    assert "engines.reference imports chainrule.engines.cpu" in finding


@pytest.mark.parametrize("statement", ["import chainrule", "from chainrule import nn_linear", "from .. import name"])
def test_an_import_of_the_root_package_is_found(statement: str) -> None:
    [finding] = wrong_directions({"chainrule": "", "chainrule.ir.graph": statement}, MAY_IMPORT)
    assert "imports the root package" in finding


def test_indirectly_allowed_imports_pass_and_siblings_do_not() -> None:
    made_up = {"chainrule.train.loop": "import chainrule.ir.graph", "chainrule.ir.graph": ""}
    assert wrong_directions(made_up, MAY_IMPORT) == []
    made_up = {"chainrule.optim.adam": "import chainrule.nn.linear", "chainrule.nn.linear": ""}
    assert len(wrong_directions(made_up, MAY_IMPORT)) == 1
    made_up = {"chainrule.cli.main": "import chainrule.studio", "chainrule.studio": ""}
    assert len(wrong_directions(made_up, MAY_IMPORT)) == 1


def test_a_package_outside_the_table_is_found() -> None:
    [finding] = wrong_directions({"chainrule.extras.plot": ""}, MAY_IMPORT)
    assert finding == "chainrule.extras.plot lies in no package of the table MAY_IMPORT"


def test_a_table_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a may import .*'b'.* must stand above it"):
        allowed_packages({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    from chainrule.b import x\n",
        "class C:\n    async def f(self):\n        import chainrule.b\n",
        "import importlib\nf = lambda: importlib.import_module('chainrule.b')\n",
    ],
)
def test_a_late_import_is_found(source: str) -> None:
    [finding] = late_imports({"chainrule.a": source, "chainrule.b": "x = 1"})
    assert "imports chainrule.b inside a function" in finding


def test_late_imports_of_other_projects_pass() -> None:
    assert late_imports({"chainrule.a": "import chainrule.b\ndef f():\n    import duckdb\n"}) == []


def test_a_cycle_is_found_and_shown() -> None:
    made_up = {
        "chainrule.a": "from chainrule import b",
        "chainrule.b": "import chainrule.c",
        "chainrule.c": "from .a import x",
        "chainrule.d": "import chainrule.a",
    }
    assert cycles(made_up) == ["chainrule.a -> chainrule.b -> chainrule.c -> chainrule.a"]


def test_a_package_and_its_modules_that_import_each_other_are_a_cycle() -> None:
    made_up = {"chainrule.p": "from chainrule.p.m import x", "chainrule.p.m": "from chainrule.p import y"}
    assert len(cycles(made_up)) == 1


def test_imports_for_types_alone_make_no_cycle() -> None:
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import chainrule.b\n"
    assert cycles({"chainrule.a": guarded, "chainrule.b": "import chainrule.a"}) == []
    assert (
        len(cycles({"chainrule.a": guarded + "else:\n    import chainrule.b", "chainrule.b": "import chainrule.a"}))
        == 1
    )


@pytest.mark.parametrize("name", ["utils", "util", "helpers", "helper", "common", "misc", "new_graph"])
def test_empty_names_are_found(name: str) -> None:
    assert len(forbidden_names({f"chainrule.ir.{name}": ""})) == 1


def test_names_that_only_begin_like_empty_ones_pass() -> None:
    assert (
        forbidden_names({"chainrule.ir.utilisation": "", "chainrule.ir.newton": "", "chainrule.commonality": ""}) == []
    )


def test_a_long_file_is_found() -> None:
    assert long_files({"chainrule.a": "x = 1\n" * MOST_LINES}) == []
    assert long_files({"chainrule.a": "x = 1\n" * (MOST_LINES + 1)}) == [
        f"chainrule.a has {MOST_LINES + 1} lines; split it by subject (at most about 500)"
    ]
