#!/usr/bin/env bash
# lm_eval 0.4.13: word_perplexity counts one word more for white space at the end of a text, and one for it at the start.
#
# Expected: "the\n" has one word, as for `wc -w` and str.split(); white space at the edges of a text changes no count.
# Observed: words are counted as len(re.split(r"\s+", text)), so an empty string before leading and one after trailing
#   white space count: " the \n" has three words. The word perplexity of short documents (a sentence a line, as in the
#   Penn Treebank or the One Billion Word corpus) that keep their line ends is far too low; for single words it is the
#   square root. Nothing in the result shows it.
# Why it matters: perplexity per word is the number that the GPT-2 paper has for these corpora. The same model with the
#   same log-probabilities on the same words gets another perplexity when JSON lines were written without strip().
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


class Letters(LM):
    """Each letter has probability 1/2 and white space 1: the score of a text does not depend on its edges."""

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        return [-math.log(2) * sum(map(str.isalpha, request.args[0])) for request in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    generate_until = loglikelihood


words = ["seven", "words", "right", "there", "which", "count", "alike"]  # of five letters, so 2^5 = 32 per word
for name, form in (("plain", "{}"), ("lines", "{}\n"), ("spaced", " {} \n")):
    with open(f"{name}.jsonl", "w") as file:
        file.writelines(json.dumps({"text": form.format(word)}) + "\n" for word in words)
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    }
    with open(f"{name}.yaml", "w") as file:
        json.dump(task, file)  # JSON is YAML
tasks = TaskManager(include_path=".", include_defaults=False)
results = lm_eval.simple_evaluate(Letters(), tasks=["plain", "lines", "spaced"], task_manager=tasks, bootstrap_iters=0)
found = {name: result["word_perplexity,none"] for name, result in results["results"].items()}
print(f"word perplexity of seven words: {found['plain']:.4f}; with line ends: {found['lines']:.4f}; "
      f"with a space on each side too: {found['spaced']:.4f}")
expected = {"plain": 32, "lines": 32 ** (1 / 2), "spaced": 32 ** (1 / 3)}
assert all(math.isclose(found[name], value) for name, value in expected.items()), "the behavior has changed"
PYTHON
