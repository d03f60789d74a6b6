#!/usr/bin/env bash
# datasets 5.2.0, and through it local tasks of lm_eval 0.4.13: a JSON column whose texts all look like dates is read as
# timestamps, so the model is asked about another text than the file has.
#
# One expects: JSON strings stay strings: {"question": "2020-01-31"} gives the prompt "Q: 2020-01-31".
# What happens: where each value of the column in a block has the form of an ISO 8601 date, load_dataset("json") infers
#   timestamp[s] (pyarrow's JSON reader does). lm_eval's template writes the datetime: "Q: 2020-01-31 00:00:00". With one
#   other text in the column everything stays a string, so a task changes with --limit or a filter of its items. Nothing
#   is reported.
# Why it matters to GPT-2 users: a task on dates, or one whose choices are dates, made as JSON lines as the guide of
#   lm_eval says, scores other prompts and continuations than its author wrote, and than a program that reads the JSON.
#   `features` with Value("string") does not help from a task's YAML; a prefix in the data does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install --quiet lm_eval==0.4.13 datasets==5.2.0
cd "$folder"
HF_HOME=$folder/hub HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PYTHON'
import json
import sys
from importlib.metadata import version

from lm_eval.tasks import TaskManager, get_task_dict

print({name: version(name) for name in ("lm_eval", "datasets", "pyarrow")})


def prompts(name: str, questions: list[str]) -> list[str]:
    """The contexts of a task of lm_eval with these questions."""
    with open(f"{name}.jsonl", "w") as file:
        file.writelines(json.dumps({"question": each, "answer": "Friday"}) + "\n" for each in questions)
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test", "output_type": "loglikelihood", "doc_to_text": "Q: {{question}}",
        "doc_to_target": " {{answer}}", "metric_list": [{"metric": "acc"}],
    }
    with open(f"{name}.yaml", "w") as file:
        json.dump(task, file)  # JSON is YAML
    loaded = get_task_dict([name], TaskManager(include_path="."))[name]
    return [loaded.doc_to_text(document) for document in loaded.test_docs()]


dates = prompts("dates", ["2020-01-31", "2020-02-29"])
mixed = prompts("mixed", ["2020-01-31", "2020-02-29", "next week"])
print("all dates:", dates)
print("with another text:", mixed)
is_so = dates[0] == "Q: 2020-01-31 00:00:00" and mixed[0] == "Q: 2020-01-31"
sys.exit(0 if is_so else "the behavior has changed")
PYTHON
