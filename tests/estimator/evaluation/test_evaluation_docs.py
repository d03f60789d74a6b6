"""The commands in docs/evaluation.md run in order."""

import json
import os
import re
import shlex
import subprocess
import sys

from conftest import QUICK_COMPILE, ROOT

NAMED = {
    "wiki.test.raw": " \n = Title = \n \n The class , which was n't used , returns 1 @,@ 000 . \n",
    "text.txt": "The class returns a list of names.\n",
    "lambada_test.jsonl": json.dumps({"text": "The function returns the name of the file"}),
    "hellaswag_val.jsonl": json.dumps({
        "activity_label": "Coding", "ctx_a": "A person types.", "ctx_b": "they", "endings": ["stop.", "run."],
        "label": 0,
    }),
}  # fmt: skip


def test_every_command_of_the_page_runs_in_order(tmp_path):
    for path in ROOT.iterdir():
        if path.name not in ("runs", "logs"):
            (tmp_path / path.name).symlink_to(path)
    for name, text in NAMED.items():
        (tmp_path / name).write_text(text + "\n")
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if "lm_eval" not in line]
    assert len(commands) == 7
    for command in commands:
        steps = ["--set=max_steps=4", "--set=train_steps=2"] if "max_steps" not in command else []
        trains = command.split()[1] == "main.py" and "--evaluate" not in command and "--score" not in command
        arguments = [sys.executable, *shlex.split(command)[1:], *(steps if trains else [])]
        arguments = [word.replace("max_steps=200", "max_steps=8") for word in arguments]
        environment = os.environ | {"XLA_FLAGS": QUICK_COMPILE}
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (tmp_path / "runs" / "tiny" / "best").is_dir()
    records = list(map(json.loads, (tmp_path / "runs" / "tiny" / "evaluations.jsonl").read_text().splitlines()))
    assert [record.get("task", record.get("file")) for record in records] == [
        "eval_split", "wiki.test.raw", "lambada", "hellaswag", "eval_split",
    ]  # fmt: skip
    assert records[1]["words"] == 3 + 2 + 13  # title, line breaks, and sentence
    assert len((tmp_path / "scores.csv").read_text().splitlines()) > 5
