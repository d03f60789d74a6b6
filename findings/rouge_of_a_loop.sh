#!/usr/bin/env bash
# rouge 1.0.1: the answer "the cat the cat the cat ..." has ROUGE-1 and ROUGE-L of 1.0 for the reference "the cat".
#
# Expected: precision falls with each repetition, for ROUGE counts n-grams and clips them by the count in the
#   reference. rouge-score 0.1.2, the port of the original script, gives a precision of 0.1 for 10 repetitions.
# Observed: by default both texts become sets of n-grams first ("exclusive"), so repetitions count for nothing, and
#   ROUGE-L is divided by the number of different words. In a longer example, where a model says one sentence and then
#   repeats it 100 times, all three scores are 1.0 or near it. Rouge(exclusive=False) counts.
# Why it matters: a repetition without end is the usual fault of small language models. This score does not see it,
#   and puts a model that loops before one that says the reference in other words.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q rouge==1.0.1 rouge-score==0.1.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

from rouge import Rouge
from rouge_score import rouge_scorer

print("rouge", version("rouge"), "rouge-score", version("rouge-score"))
SENTENCE = "a small model repeats what it has said until the end of its context"
other = rouge_scorer.RougeScorer(["rouge1", "rougeL"])
for text, times in (("the cat", 10), (SENTENCE, 100)):
    answer = " ".join([text] * times)
    found = Rouge().get_scores(answer, text)[0]
    counted = Rouge(exclusive=False).get_scores(answer, text)[0]
    right = {name: score.precision for name, score in other.score(text, answer).items()}
    print(f"{times} times {text!r}: {found}; counted: {counted['rouge-1']}; rouge-score: {right}")
    assert right["rouge1"] == right["rougeL"] == 1 / times and counted["rouge-1"]["p"] == 1 / times
    for name in ("rouge-1", "rouge-l"):
        assert found[name]["p"] == 1.0 and found[name]["f"] > 0.999, "the behavior has changed"
assert found["rouge-2"]["f"] > 0.95, "the behavior has changed"
PY
