#!/usr/bin/env bash
# lm_eval 0.4.13: a model whose log-probabilities are all NaN has an accuracy of 0.6 in a task with 60 % "A".
#
# Expected: an error or a warning, or an accuracy of 0 or NaN: a broken model answers nothing.
# Observed: the answer is the argmax of the scores, for NumPy the first NaN, so the first choice is what the model
#   "says". acc and acc_norm are the share of items whose right answer stands first, about one in four for shuffled
#   choices, as for a model that guesses. -inf for all choices does the same. One NaN wins over any number. Nothing is
#   reported.
# Why it matters: NaN logits come from float16 overflow, a wrong conversion, or a run that has diverged. The table
#   shows a small model near chance, which is believed, and in a task whose first choice is often right a good one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet lm_eval==0.4.13 datasets==5.2.0
mkdir "$folder/tasks"
cd "$folder/tasks"
HF_HOME=$folder/hub HF_HUB_OFFLINE=1 TQDM_DISABLE=1 LOGLEVEL=ERROR "$folder/venv/bin/python" - <<'PYTHON'
import json
import math
from importlib.metadata import version

import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

print({name: version(name) for name in ("lm_eval", "datasets")})
CHOICES = ["north", "east", "south", "west"]


class Scores(LM):
    """Gives each choice the log-probability of a table."""

    def __init__(self, scores: dict[str, float]) -> None:
        super().__init__()
        self._scores = scores

    def loglikelihood(self, requests, disable_tqdm=False):
        return [(self._scores[request.args[1].strip()], False) for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    generate_until = loglikelihood_rolling


for name, right in (("often_first", [0] * 6 + [1, 2, 3, 3]), ("mixed", [0, 1, 2, 3, 1, 2, 3, 3, 1, 0])):
    with open(f"{name}.jsonl", "w") as file:
        for i, answer in enumerate(right):
            file.write(json.dumps({"question": f"Where is ship {i}?", "choices": CHOICES, "answer": answer}) + "\n")
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_target": "answer", "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    with open(f"{name}.yaml", "w") as file:
        json.dump(task, file)  # JSON is YAML
tasks = TaskManager(include_path=".", include_defaults=False)
models = {
    "all NaN": dict.fromkeys(CHOICES, math.nan),
    "all -inf": dict.fromkeys(CHOICES, -math.inf),
    "west is NaN, others are not": dict.fromkeys(CHOICES, -1.0) | {"west": math.nan},
}
expected = {"all NaN": (0.6, 0.2), "all -inf": (0.6, 0.2), "west is NaN, others are not": (0.2, 0.3)}
for name, scores in models.items():
    results = lm_eval.simple_evaluate(
        Scores(scores), tasks=["often_first", "mixed"], task_manager=tasks, bootstrap_iters=0
    )
    found = {task: (each["acc,none"], each["acc_norm,none"]) for task, each in results["results"].items()}
    print(f"{name}: acc and acc_norm {found}")
    assert found == {task: (acc, acc) for task, acc in zip(("often_first", "mixed"), expected[name], strict=True)}, (
        "the behavior has changed"
    )
PYTHON
