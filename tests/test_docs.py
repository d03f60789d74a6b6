"""What the repository says of itself is true."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import jax
from conftest import ROOT

from docs import generate


def test_generated_files_are_fresh():
    for path, text in generate.generated().items():
        assert path.read_text() == text, f"{path.name} is stale: python3 docs/generate.py"


def test_shipped_files_follow_the_schema():
    schema = json.loads((ROOT / "configs" / "schema.json").read_text())
    for path in (ROOT / "configs").glob("*.json"):
        if path.name != "schema.json":
            values = json.loads(path.read_text())
            assert set(values) <= set(schema["properties"]), path
            assert set(schema["required"]) <= set(values), path


def test_every_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`((?:configs|docs|datasets|models|runtime|text|benchmarks|tests)/[\w./]*)`", text))
    named |= set(re.findall(r"\]\((docs/[^)]+)\)", text))
    tree = text.split("## Files")[1].split("```")[1]
    named |= {line.split()[0] for line in tree.strip().splitlines()}
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists(), name


def test_every_top_level_program_and_folder_is_in_the_readme():
    tree = (ROOT / "README.md").read_text().split("## Files")[1].split("```")[1]
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists() and path.name != "tests"):
            assert re.search(rf"^{re.escape(path.name)}", tree, re.MULTILINE), path.name


def test_every_command_of_the_readme_runs_in_order(tmp_path):
    """In a copy of the repository, so that a newcomer's `runs` is as it was."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        if name.endswith((".py", ".json", ".cc", ".h")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    commands = readme_commands()
    assert len(commands) >= 8
    prepare_fine_tuning(tmp_path)
    for command in commands:
        arguments = [sys.executable, *shlex.split(without_network(command))[1:]]
        done = subprocess.run(
            arguments, cwd=tmp_path, env={**os.environ, "XLA_FLAGS": ""}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (tmp_path / "runs" / "tiny.png").stat().st_size > 10_000


TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_ctx": 32, "n_vocab": 300}
STEPS = {"max_steps": 2, "train_steps": 2, "eval_steps": 1, "warmup_steps": 1}
BATCH = {"train_batch_size": 2, "micro_batch_size": 1, "eval_batch_size": 2}


def prepare_fine_tuning(folder):
    """Texts in `my_texts`, and in `mirror` what a download of a tiny GPT-2 of random weights needs."""
    from models.gpt2 import gpt2, hf
    from runtime.params import initialize
    from text.training import train_byte_bpe

    lines = [f"{number} times {number} is {number * number}, said the old machine.\n" for number in range(400)]
    (folder / "my_texts").mkdir()
    for part in range(4):
        (folder / "my_texts" / f"{part}.txt").write_text("".join(lines[100 * part :][:100]))
    train_byte_bpe(lines, n_vocab=TINY["n_vocab"], out=folder / "vocabulary")
    config = gpt2.GPT2Config(**TINY)
    weights = initialize(gpt2.parameters(config), jax.random.key(0))
    hf.write(folder / "mirror", weights, config, encoder=folder / "vocabulary", dtype="f32")


def without_network(command: str) -> str:
    """The same command, but the model is the tiny one of the mirror in place of OpenAI's, for a few steps."""
    if "download_model.py" in command:
        return command.replace("124M", "tiny/gpt2") + " --from mirror"
    if "configs/finetune-124M.json" not in command:
        return command
    changes = TINY | STEPS | BATCH | {"init_from": "tiny/gpt2", "encoder_path": "pretrained/tiny/gpt2"}
    return command + "".join(f" --set {key}={value}" for key, value in changes.items() if f"{key}=" not in command)


def readme_commands() -> list[str]:
    """The command lines in the README's code blocks, in order."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python3 ")]
