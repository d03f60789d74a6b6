#!/usr/bin/env bash
# nltk 3.10.4: the probabilities that a trigram model of Kneser and Ney gives to the first word of a text sum to
#   1.0025, and those after "<s>" alone to 1.05.
#
# Expected: the probabilities of all words after a context sum to 1, as for every other context, for bigrams, and by
#   WittenBellInterpolated and AbsoluteDiscountingInterpolated.
# Observed: after the marks "<s>" that pad the beginning of a text, the lower orders count in how many contexts a word
#   was seen. Nothing is before a text, so the number of the contexts and the sum that they are divided by do not fit.
#   The documentation has no word on it.
# Why it matters: corpora are filtered by the perplexity of such models, and baselines of language models are given by
#   it. Sums above 1 make it too low, most of all for short texts, and no comparison with another model is fair.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q nltk==3.10.4
"$folder/venv/bin/python" - <<'PY'
import itertools

import nltk
from nltk.lm import AbsoluteDiscountingInterpolated, KneserNeyInterpolated, WittenBellInterpolated
from nltk.lm.preprocessing import padded_everygram_pipeline

print("nltk", nltk.__version__)
TEXTS = ["the cat sat on the mat", "the dog sat on the cat", "a dog saw the cat", "the mat"]


def sums(model_class: type, order: int) -> dict[tuple[str, ...], float]:
    """The sums that are not 1, of all contexts."""
    grams, words = padded_everygram_pipeline(order, [text.split() for text in TEXTS])
    model = model_class(order)
    model.fit(grams, words)
    contexts = [each for length in range(order) for each in itertools.product(model.vocab, repeat=length)]
    found = {context: sum(model.score(word, context) for word in model.vocab) for context in contexts}
    return {context: total for context, total in found.items() if abs(total - 1) > 1e-9}


for model_class in (WittenBellInterpolated, AbsoluteDiscountingInterpolated):
    assert not sums(model_class, 3)
assert not sums(KneserNeyInterpolated, 2)
for order, begin in [(3, ("<s>", "<s>")), (4, ("<s>", "<s>", "<s>"))]:
    found = sums(KneserNeyInterpolated, order)
    print(f"order {order}: {len(found)} contexts, all end with <s>; after {begin}: {found.get(begin)}, "
          f"largest {max(found.values(), default=1.0)}")
    assert found and all(context[-1] == "<s>" for context in found), "the behavior has changed"
    assert abs(found[begin] - 1.0025) < 1e-6 and 1.04 < max(found.values()) < 1.06, "the behavior has changed"
PY
