#!/usr/bin/env bash
# lm_eval 0.4.13: the right answer "[1, 2, 3]" scores 0, for it is read as a Python list; one such line can turn all to 0.
#
# Expected: doc_to_target is a template, and its result the text that exact_match compares with the model's.
# Observed: a result that begins with "[" and ends with "]" is read as a Python literal. Whether it is used as a list of
#   answers depends on the first document. If that is a list, no text can equal [1, 2, 3], whose items are numbers, "b"
#   counts as right for "['a', 'b']", and ordinary answers of the task, as "one", are taken apart into letters and count
#   as wrong. If it is not, a list is turned back into text, so "[1,2]" and '["a"]', with other spaces or quotes than
#   Python writes, count as wrong. Few-shot examples show the first item for the answer. The guide of tasks has no word
#   on it; the maintainers' own issue 3170 (2025, open) finds wrong scores of bigbench_list_functions.
# Why it matters: lists are answers in tasks on code, sorting, JSON and tokenization. The same model with the same output
#   has 60 % or 0 %, depending on which line of the file is the first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet lm_eval==0.4.13 datasets==5.2.0
mkdir "$folder/tasks"
cd "$folder/tasks"
HF_HOME=$folder/hub HF_HUB_OFFLINE=1 TQDM_DISABLE=1 LOGLEVEL=ERROR "$folder/venv/bin/python" - <<'PYTHON' 2> "$folder/errors" ||
import json
from importlib.metadata import version

import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

print({name: version(name) for name in ("lm_eval", "datasets")})


class Says(LM):
    """A model that says what it is told to for each question, and remembers the last prompt."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__()
        self.answers = answers

    def generate_until(self, requests, disable_tqdm=False):
        self.prompt = requests[-1].args[0]
        return [self.answers[request.doc["question"]] for request in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def score(name: str, right: dict[str, str], said: dict[str, str], shots: int = 0) -> tuple[float, str]:
    """The exact match of a model in a task whose right answers are these, and its last prompt."""
    with open(f"{name}.jsonl", "w") as file:
        file.writelines(json.dumps({"question": each, "answer": answer}) + "\n" for each, answer in right.items())
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test", "fewshot_split": "test", "output_type": "generate_until", "doc_to_text": "{{question}} =",
        "doc_to_target": "{{answer}}", "generation_kwargs": {"until": ["\n"]}, "metric_list": [{"metric": "exact_match"}],
    }
    with open(f"{name}.yaml", "w") as file:
        json.dump(task, file)  # JSON is YAML
    model = Says(said)
    tasks = TaskManager(include_path=".", include_defaults=False)
    results = lm_eval.simple_evaluate(model, tasks=[name], task_manager=tasks, bootstrap_iters=0, num_fewshot=shots)
    found = float(results["results"][name]["exact_match,none"])
    print(f"right: {list(right.values())}; said: {list(said.values())}; exact match {found:.0%}")
    return found, model.prompt


lists = {"sort 3 1 2": "[1, 2, 3]", "sort b a": "['a', 'b']"}
assert score("lists", lists, lists)[0] == 0, "the behavior has changed"
assert score("items", lists, {"sort 3 1 2": "1", "sort b a": "b"})[0] == 0.5, "the behavior has changed"
mixed = {"first": "one", "second": "[1, 2]", "third": "[1,2]", "fourth": '["a"]', "fifth": "[x]"}
assert score("mixed", mixed, mixed)[0] == 0.6, "the behavior has changed"
moved = {"third": mixed["third"], **mixed}  # the same answers, another first
assert score("moved", moved, moved)[0] == 0, "the behavior has changed"
_, prompt = score("shots", dict.fromkeys(("first", "second"), "['x', 'y']"), {"first": "", "second": ""}, shots=1)
print("a prompt with one example:", repr(prompt))
assert prompt.split("\n")[0].endswith("= x"), "the behavior has changed"
PYTHON
{ cat "$folder/errors"; exit 1; }
