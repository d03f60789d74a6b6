"""Architecture: imports only go down, some packages never import JAX, and file sizes are limited."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PROGRAMS = 8
# Packages and single modules from lowest to highest: imports go to the same or a lower level.
LEVELS = [
    {
        "estimator.errors",
        "estimator.format_version",
        "estimator.hashing",
        "estimator.interrupts",
        "estimator.invocation",
        "estimator.json_advice",
        "estimator.json_text",
        "estimator.quantities",
    },
    {"estimator.tokenization", "estimator.parallel", "estimator.storage"},
    {"estimator.shards", "estimator.config", "estimator.key_synonyms", "estimator.system"},
    {"estimator.training", "estimator.corpus", "estimator.interop"},
    {"estimator", "estimator.estimator", "estimator.aot", "estimator.data", "crawler"},
    {
        *("models", "inputs", "optimizers", "estimator.launch", "estimator.generation", "estimator.setup"),
        "estimator.evaluation",
        "estimator.commands",
        "estimator.search",
    },
    {"serving"},
    {
        "main",
        "evaluate",
        "control",
        "serve",
        "visualize",
        "download_model",
        "export_model",
        "datasets",
        "docs",
        "benchmarks",
        "gpt2",
        "setup",
    },
]
WITHOUT_JAX = (
    "control",
    "crawler",
    "datasets",
    "download_model",
    "estimator.config",
    "estimator.corpus",
    "estimator.data",
    "estimator.errors",
    "estimator.format_version",
    "estimator.hashing",
    "estimator.invocation",
    "estimator.json_advice",
    "estimator.json_text",
    "estimator.key_synonyms",
    "estimator.launch",
    "estimator.plots",
    "estimator.quantities",
    "estimator.shards",
    "estimator.storage",
    "estimator.tokenization",
    "inputs",
    "visualize",
)
JAX = {"jax", "jaxlib", "optax", "orbax", "flax"}
FILE_LINES = 400

Imports = dict[str, set[str]]


@functools.cache
def sources() -> dict[str, Path]:
    """Returns every non-test module by its dotted name; packages go by their own name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0].startswith(".") or parts[0] in ("tests", "runs", "logs", "build"):
            continue
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: set[str], *, top_level_only: bool = False) -> set[str]:
    """Returns the dotted names a file imports, including imports inside functions; project modules have full names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import {node.module} by its full name"
            package = node.module or ""
            for alias in node.names:
                full = f"{package}.{alias.name}"
                names.add(full if full in known else package)
    return names


@functools.cache
def all_imports() -> Imports:
    known = set(sources())
    return {module: imported(path, known) for module, path in sources().items()}


def level(module: str) -> int:
    """Returns a module's level, which is that of its nearest listed package; 1 is the lowest."""
    name = module
    while name:
        for number, names in enumerate(LEVELS, 1):
            if name in names:
                return number
        name = name.rpartition(".")[0]
    raise AssertionError(f"{module}: give it a level in {__file__}")


def reach(module: str, imports: Imports) -> set[str]:
    """Returns the project modules that are imported along with a module, including itself."""
    seen, rest = set(), [module]
    while rest:
        name = rest.pop()
        if name in imports and name not in seen:
            seen.add(name)
            rest += imports[name]
    return seen


def upward(imports: Imports) -> list[str]:
    """Returns each import of a higher level, of a program, or in a cycle."""
    faults = []
    for module, names in imports.items():
        for name in sorted(names & set(imports)):
            if level(name) == PROGRAMS and not name.rpartition(".")[2].startswith("_"):
                faults.append(f"{module} imports {name}, a program")
            elif level(name) > level(module) and name != "estimator":  # its names are imported lazily
                faults.append(f"{module} (level {level(module)}) imports {name} (level {level(name)})")
            elif module in reach(name, imports):
                faults.append(f"{module} and {name} import each other")
    return faults


def test_imports_only_go_down():
    assert upward(all_imports()) == []


def test_an_import_upwards_would_be_found():
    assert upward({"inputs": {"estimator.aot"}, "estimator.aot": {"inputs"}, "main": set()}) != []
    assert upward({"estimator.data.x": {"inputs"}, "inputs": set()}) == [
        "estimator.data.x (level 5) imports inputs (level 6)"
    ]
    assert upward({"serve": {"main"}, "main": set()}) == ["serve imports main, a program"]
    cycle = {"crawler.a": {"crawler.b"}, "crawler.b": {"crawler.a"}}
    assert upward(cycle) == ["crawler.a and crawler.b import each other", "crawler.b and crawler.a import each other"]


def test_programs_in_datasets_do_not_import_each_other_by_bare_name():
    for module in sources():
        if module.startswith("datasets."):
            siblings = {path.stem for path in sources()[module].parent.glob("*.py")}
            assert not all_imports()[module] & siblings, module


def imports_of(*folders: str) -> set[str]:
    """Returns all project modules that these packages import, except for tests."""
    users = [module for module in sources() if module.split(".")[0] in folders or module.startswith(folders)]
    return {name for module in users for name in all_imports()[module] & set(sources())}


def test_the_estimator_knows_no_model_and_no_program():
    assert not {name for name in imports_of("estimator") if not name.startswith(("estimator", "crawler"))}
    assert not {name for name in imports_of("estimator") if name.startswith("crawler")}


def test_programs_in_datasets_import_neither_models_nor_training():
    allowed = (
        "estimator.arguments",
        "estimator.interrupts",
        "estimator.corpus",
        "estimator.errors",
        "estimator.interop",
        "estimator.json_text",
        "estimator.quantities",
        "estimator.shards",
        "estimator.storage",
        "estimator.tokenization",
    )
    others = {name for name in imports_of("datasets") if not name.startswith((*allowed, "crawler"))}
    assert others <= {"estimator.parallel.signals", "estimator.system.malloc_settings"}, others


def test_jobs_are_commands():
    others = {name for name in imports_of("estimator.launch") if name.startswith(("estimator.training", "models"))}
    # To read the lock of a run, and which of its checkpoints are whole.
    assert others <= {"estimator.training.run_dir", "estimator.training.remote_checkpoints"}


def test_the_crawler_is_for_openwebtext_only():
    for module in sources():
        if not module.startswith(("crawler", "datasets.openwebtext", "benchmarks")):
            assert not {name for name in all_imports()[module] if name.startswith("crawler")}, module


def without_jax() -> list[str]:
    return [name for name in sources() if name.startswith(WITHOUT_JAX)]


def test_rooms_without_jax_do_not_import_it_even_through_others():
    for module in without_jax():
        for name in reach(module, all_imports()):
            users = {other for other in all_imports()[name] if other.partition(".")[0] in JAX}
            assert not users, f"{module} reaches {name}, which imports {users}"


def test_rooms_without_jax_run_without_it():
    modules = [name for name in without_jax() if not name.startswith("datasets.")]
    code = f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
    code += f"print(sorted({JAX!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_optional_packages_are_imported_inside_the_function_that_needs_them():
    core, first_party = {"google_crc32c", "jaxlib", "ml_dtypes"}, {name.partition(".")[0] for name in sources()}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        name = line.partition("==")[0]
        core.add({"orbax-checkpoint": "orbax"}.get(name, name))
    server = {
        "fastapi",
        "h11",
        "prometheus_client",
        "starlette",
        "uvicorn",
    }  # for serving.api, which serve.py imports lazily
    for module, path in sources().items():
        if module.startswith("benchmarks") or module == "setup":
            continue
        for name in imported(path, set(sources()), top_level_only=True):
            root = name.partition(".")[0]
            known = root in core | first_party or root in sys.stdlib_module_names
            known |= root in server and module.startswith("serving.api.")
            assert known, f"{module} imports {name} on top; import it inside the function that needs it"


def test_the_routes_are_imported_by_the_server_program_only():
    users = {module for module, names in all_imports().items() if any(n.startswith("serving.api.") for n in names)}
    assert {user for user in users if not user.startswith(("serving.api.", "benchmarks"))} <= {"serve"}


def lines(module: str) -> int:
    return len(sources()[module].read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("module", sorted(sources()))
def test_a_file_is_one_sitting(module):
    assert lines(module) <= FILE_LINES


def test_nothing_is_called_utils():
    assert not [name for name in sources() if "utils" in name]


def test_each_file_of_tests_has_a_name_of_its_own():
    """pytest imports test files by name only."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
