"""The documentation of this Python installation as a corpus: some megabytes of real text, on every machine, offline.

The reference topics of `help()`, and the docstrings of the standard library, which is parsed and never imported.
"""

import ast
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path

# The word that stands for this corpus where files are expected.
NAME = "python-docs"
MIN_MODULE_CHARS = 200
# Folders of the standard library that hold tests, other people's packages, or nothing worth reading.
SKIPPED_FOLDERS = {"__pycache__", "idle_test", "lib2to3", "pydoc_data", "test", "tests", "turtledemo"}
SKIPPED_FOLDERS |= {"dist-packages", "site-packages"}


def documents() -> Iterator[tuple[str, str]]:
    """(name, text) for each topic of the reference, then for each module of the standard library, in order of name."""
    yield from _topics()
    for path in sources():
        name = ".".join(path.relative_to(_library()).with_suffix("").parts).removesuffix(".__init__")
        text = _module_text(name, path)
        if len(text) >= MIN_MODULE_CHARS:
            yield f"library-{name.replace('.', '-')}", text


def sources() -> list[Path]:
    """The standard library's files."""
    library = _library()
    found = []
    for path in library.rglob("*.py"):
        parts = path.relative_to(library).parts
        if not any(part in SKIPPED_FOLDERS or part.startswith(("config-", "test_")) for part in parts):
            found.append(path)
    return sorted(found)


def _library() -> Path:
    return Path(inspect.__file__).resolve().parent


def _topics() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # an installation stripped of its documentation
        return
    for name in sorted(topics):
        yield f"topic-{name}", topics[name].strip() + "\n"


def _module_text(name: str, path: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own invalid escapes are no business of the reader
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ""  # a template or a file for other versions, not a module
    docstring = ast.get_docstring(tree)
    parts = [f"{name}\n{'=' * len(name)}\n\n{docstring}"] if docstring else []
    parts += _definitions(tree, indent="")
    return "\n\n".join(parts) + "\n" if parts else ""


def _definitions(parent: ast.AST, *, indent: str) -> Iterator[str]:
    """A text for each documented class and function within, in the order of the file."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                lines = [_heading(node), *(f"    {line}" if line else "" for line in docstring.splitlines())]
                yield "\n".join(f"{indent}{line}" if line else "" for line in lines)
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, indent=indent + "    ")
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions(node, indent=indent)


def _heading(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{keyword} {node.name}({ast.unparse(node.args)})"
