"""The shape of the house: imports only go down, some rooms never see JAX, and no file outgrows its reader."""

import ast
import functools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

PROGRAMS = 5
LAYERS = {
    "main": PROGRAMS,
    "serve": PROGRAMS,
    "visualize": PROGRAMS,
    "download_model": PROGRAMS,
    "export_model": PROGRAMS,
    "models": 4,
    "models.gpt2": 4,
    "estimator": 3,
    "inputs": 2,
    "models.gpt2.attention": 2,
    "models.gpt2.flash": 2,
    "models.gpt2.blocked": 2,
    "models.gpt2.dropout": 2,
    "models.gpt2.cache": 2,
    "models.gpt2.few_rows": 2,
    "models.gpt2.kernels": 2,
    "models.gpt2.operations": 2,
    "models.gpt2.attention_choice": 2,
    "optimizers": 2,
    "runtime.params": 1,
    "runtime.mesh": 1,
    "runtime.mesh_sizes": 1,
    "runtime.train_step": 2,
    "runtime.hardware": 1,
    "runtime.compile_cache": 1,
    "runtime.native": 1,
    "runtime.processes": 1,
    "runtime.checkpoints": 1,
    "runtime.adafactor": 1,
    "runtime.schedules": 1,
    "runtime.muon": 1,
    "runtime.feed": 1,
    "runtime.meter": 1,
    "runtime.plan": 1,
    "runtime.topologies": 1,
    "runtime.roofline": 1,
    "runtime.rehearsal": 1,
}
# Of a module that is not named above, by its package.
PACKAGES = {
    "datasets": PROGRAMS,
    "docs": PROGRAMS,
    "benchmarks": PROGRAMS,
    "serving": 4,
    "models": 3,
    "cluster": 2,
    "runtime": 0,
    "text": 0,
}
WITHOUT_JAX = ("visualize", "download_model", "datasets.", "inputs", "cluster")
JAX = {"jax", "jaxlib", "optax", "orbax", "flax"}
# What a reader who follows main.py to the compiled step does not open.
BESIDE_THE_CORE_PATH = (
    # prediction, weights of other programs, text
    "models.gpt2.sample",
    "models.gpt2.flash",
    "models.gpt2.blocked",
    "models.gpt2.dropout",
    "models.gpt2.cache",
    "models.gpt2.few_rows",
    "models.gpt2.kernels",
    "models.gpt2.attention_choice",
    "models.gpt2.weights",
    "models.gpt2.hf",
    "models.gpt2.gguf",
    "models.gpt2.start",
    "models.gpt2.tuning",
    "models.gpt2.costs",
    "models.gpt2.sources",
    "models.gpt2.slots",
    "runtime.tensor_bundle",
    "runtime.safetensors",
    "runtime.pytorch_file",
    "runtime.released",
    "runtime.pretrained",
    "runtime.downloads",
    "text",
    "cluster",
    "serving",
    # how a shard lies on disk, and what is checked of it
    "runtime.tfrecord",
    "runtime.record",
    "runtime.example",
    "runtime.shard",
    "runtime.token_arrays",
    "runtime.executors",
    "runtime.array_files",
    "runtime.open_files",
    # inputs that are not the default one, and what is done with them afterwards
    "runtime.data_keys",
    "runtime.sampled_windows",
    "runtime.mixtures",
    "runtime.segments",
    "runtime.chat_windows",
    "runtime.evaluation",
    # where a path leads that is not on this machine
    "runtime.checkpoint_copies",
    "runtime.lease",
    "runtime.local_copies",
    "runtime.mirror",
    "runtime.remote_data",
    "runtime.stor",
    # optimizers that are not the default one
    "runtime.adafactor",
    "runtime.schedules",
    "runtime.muon",
    # what a run says, keeps and survives
    "runtime.plan",
    "runtime.rehearsal",
    "runtime.compiled_text",
    "runtime.roofline",
    "runtime.topologies",
    "runtime.slice_shapes",
    "runtime.metrics",
    "runtime.events",
    "runtime.meter",
    "runtime.run_folder",
    "runtime.checkpoints",
    "runtime.interrupts",
    "runtime.allocator",
    "runtime.compile_cache",
    "runtime.native",
    "runtime.hardware",
    "runtime.processes",
    "runtime.mesh_sizes",
    "runtime.errors",
    # a permutation by number, whose use says all
    "runtime.shuffles",
)
CORE_LINES = 2500
FILE_LINES = 400

Imports = dict[str, set[str]]


@functools.cache
def sources() -> dict[str, Path]:
    """Every module that is not a test, by its dotted name; a package goes by its own name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0].startswith(".") or parts[0] in ("tests", "runs", "logs", "build"):
            continue
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: set[str], *, top_level_only: bool = False) -> set[str]:
    """The dotted names that a file imports, inside functions too; a project's module by its full name."""
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


def layer(module: str) -> int:
    level = LAYERS.get(module, PACKAGES.get(module.partition(".")[0]))
    assert level is not None, f"{module}: give it a layer in {__file__}"
    return level


def reach(module: str, imports: Imports) -> set[str]:
    """The project's modules that importing one brings along, itself included."""
    seen, rest = set(), [module]
    while rest:
        name = rest.pop()
        if name in imports and name not in seen:
            seen.add(name)
            rest += imports[name]
    return seen


def upward(imports: Imports) -> list[str]:
    """Each import of a higher layer, of a program, or round in a circle."""
    faults = []
    for module, names in imports.items():
        for name in sorted(names & set(imports)):
            if layer(name) == PROGRAMS and not name.rpartition(".")[2].startswith("_"):
                faults.append(f"{module} imports {name}, a program")
            elif layer(name) > layer(module):
                faults.append(f"{module} (layer {layer(module)}) imports {name} (layer {layer(name)})")
            elif module in reach(name, imports):
                faults.append(f"{module} and {name} import each other")
    return faults


def test_imports_only_go_down():
    assert upward(all_imports()) == []


def test_an_import_upwards_would_be_found():
    assert upward({"inputs": {"estimator"}, "estimator": set()}) == ["inputs (layer 2) imports estimator (layer 3)"]
    assert upward({"serve": {"main"}, "main": set()}) == ["serve imports main, a program"]
    circle = {"text.a": {"text.b"}, "text.b": {"text.a"}}
    assert upward(circle) == ["text.a and text.b import each other", "text.b and text.a import each other"]


def test_programs_in_datasets_do_not_import_each_other_by_bare_name():
    for module in sources():
        if module.startswith("datasets."):
            siblings = {path.stem for path in sources()[module].parent.glob("*.py")}
            assert not all_imports()[module] & siblings, module


def test_programs_in_datasets_import_text_and_runtime_only():
    for module, names in all_imports().items():
        if module.startswith("datasets."):
            others = {name for name in names & set(sources()) if not name.startswith(("text", "runtime"))}
            assert not others, f"{module} imports {others}"


def test_estimator_knows_no_model_no_input_and_no_text():
    if "estimator" not in sources():
        pytest.skip("no estimator yet")
    reached = reach("estimator", all_imports())
    assert not [name for name in reached if name.partition(".")[0] in ("models", "inputs", "text")]


def without_jax() -> list[str]:
    return [name for name in sources() if layer(name) == 0 or name.startswith(WITHOUT_JAX)]


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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core, first_party = {"google_crc32c", "jaxlib"}, {name.partition(".")[0] for name in sources()}
    for requirement in project["dependencies"]:
        name = requirement.partition("[")[0].partition(">")[0]
        core.add({"orbax-checkpoint": "orbax"}.get(name, name))
    for module, path in sources().items():
        if module.startswith("benchmarks"):
            continue
        for name in imported(path, set(sources()), top_level_only=True):
            root = name.partition(".")[0]
            known = root in core | first_party or root in sys.stdlib_module_names
            assert known, f"{module} imports {name} on top; import it inside the function that needs it"


def lines(module: str) -> int:
    return len(sources()[module].read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("module", sorted(sources()))
def test_a_file_is_one_sitting(module):
    assert lines(module) <= FILE_LINES


def test_the_way_from_main_to_the_compiled_step_is_short():
    if "main" not in sources():
        pytest.skip("no main.py yet")
    core = [name for name in reach("main", all_imports()) if not name.startswith(BESIDE_THE_CORE_PATH)]
    counts = {name: lines(name) for name in sorted(core)}
    assert sum(counts.values()) <= CORE_LINES, counts


def test_nothing_is_called_utils():
    assert not [name for name in sources() if "utils" in name]
