"""The command `gpt2`: every subcommand runs one of the repository's programs, which `--help` after it describes.

The programs stay where they are: installed, in gpt2/programs; in a checkout, in its root. Their folder is on the path
of this command only, so that names such as `inputs` and `datasets` do not exist in the environment.
"""

import difflib
import importlib.metadata
import re
import sys
import tomllib
import types
from pathlib import Path
from typing import NamedTuple

DISTRIBUTION = "gpt2-jax"  # as in pyproject.toml
INSTALLED = Path(__file__).resolve().parent / "programs"
ROOT = INSTALLED if INSTALLED.is_dir() else INSTALLED.parent.parent
EXIT_ERROR = 2


class Command(NamedTuple):
    """program: a file below ROOT. flags: added unless an argument begins with one of `unless`."""

    program: str
    help: str
    flags: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()


COMMANDS = {
    "train": Command("main.py", "train the model of a JSON file; also --dry_run, --check, --rehearse"),
    "eval": Command("main.py", "evaluate the newest checkpoint", ("--evaluate",), ("--e", "--sc", "-h", "--h")),
    "tasks": Command("evaluate.py", "evaluate on LAMBADA, HellaSwag and other tasks"),
    "generate": Command(
        "main.py", "generate text; interactive by default", ("--interactive",), ("--p", "--i", "-h", "--h")
    ),
    "prepare": Command("datasets/openwebtext/prepare.py", "turn a published corpus into shards of tokens"),
    "encode": Command("datasets/encode.py", "turn text into shards of tokens"),
    "tokenizer": Command("datasets/train_tokenizer.py", "train a vocabulary on your own text"),
    "download": Command("download_model.py", "download released models and vocabularies"),
    "export": Command("export_model.py", "export a model to Hugging Face or GGUF"),
    "plot": Command("visualize.py", "draw the curves of runs, follow them, write reports"),
    "control": Command("control.py", "command a running training: save, evaluate, lr X, stop"),
    "launch": Command("main.py", "train on other machines: gpt2 launch NAME --model X.json"),
    "serve": Command("serve.py", "serve a model over HTTP"),
}


def main() -> None:
    """Runs the subcommand of the command line."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name == "--version":
        print(f"gpt2 {version()}")
        return
    command = COMMANDS.get(name)
    if command is None or not (ROOT / command.program).is_file():
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near and near[0] != name else "see gpt2 --help"
        print(f"error: gpt2 {name}: no such command; {hint}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    if not any(argument.startswith(command.unless) for argument in arguments if command.unless):
        arguments = [*command.flags, *arguments]
    if name == "launch" and arguments and not arguments[0].startswith("-"):
        arguments = ["--tpu", *arguments]
    elif name == "launch" and not any(argument.startswith(("--tpu", "-h", "--h")) for argument in arguments):
        print("error: gpt2 launch: name the machines first: gpt2 launch NAME --model X.json", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    sys.argv = [f"gpt2 {name}" + (" NAME" if name == "launch" else ""), *arguments]
    run(command.program)


def run(program: str) -> None:
    """Runs a program as `__main__`; its help shows this command's name. `runpy` would overwrite sys.argv[0]."""
    sys.path.insert(0, str(ROOT))
    from estimator import invocation

    names = {command.program: f"gpt2 {name}" for name, command in reversed(COMMANDS.items())}  # main.py is `gpt2 train`
    invocation.COMMANDS.update(names)
    path = ROOT / program
    source = re.sub(rf"python3 {re.escape(program)}\b", names[program], path.read_text(encoding="utf-8"))
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    exec(compile(source, path, "exec"), module.__dict__)


def version() -> str:
    """The version of the installed package, or that of pyproject.toml in a checkout, which may be newer."""
    if ROOT == INSTALLED:
        return importlib.metadata.version(DISTRIBUTION)
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]["version"]


def usage() -> str:
    """The text of --help."""
    present = {name: command for name, command in COMMANDS.items() if (ROOT / command.program).is_file()}
    lines = [f"  gpt2 {name:10} {command.help} ({command.program})" for name, command in present.items()]
    return "\n".join(
        [
            "Trains, evaluates and samples GPT-2 language models. gpt2 COMMAND --help describes a command:",
            "",
            *lines,
            "",
            "gpt2 --version prints the version.",
            f"JSON files to start from are in {ROOT / 'configs'}",
        ]
    )


if __name__ == "__main__":
    main()
