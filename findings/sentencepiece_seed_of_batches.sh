#!/usr/bin/env bash
# sentencepiece 0.2.3: with set_random_generator_seed(1), sampled pieces repeat text by text, and those of a list do
#   not.
#
# Expected: a seed makes the sampling (subword regularization) repeatable for encode(text) and for encode([text,
#   ...]), which does the same for many texts.
# Observed: a list is encoded by threads, one per core by default. Each has a generator of its own, and which text
#   goes to which thread depends on their speed: of 20 batches with the same seed half differ, on two threads. The
#   seed is accepted, and num_threads=1 repeats.
# Why it matters: training with sampled pieces encodes batches. Two runs with one seed see other tokens, a resumed run
#   cannot be compared with one that was not stopped, and a test of it on one core passes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q sentencepiece==0.2.3
"$folder/venv/bin/python" - <<'PY'
import io

import sentencepiece

print("sentencepiece", sentencepiece.__version__)
WORDS = ["alpha", "beta", "gamma", "delta", "the", "cat", "sat", "on", "mat", "token"]
lines = [" ".join(WORDS[(i * (k + 3) + k) % 10] for k in range(8)) for i in range(2000)]
model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines), model_writer=model, vocab_size=60, hard_vocab_limit=False, minloglevel=2
)
processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
texts = ["alpha beta gamma delta the cat"] * 200


def batches(threads: int) -> set[tuple[tuple[int, ...], ...]]:
    """The different results of 20 batches, each after the seed was set; 0 threads: text by text."""
    found = set()
    for _ in range(20):
        sentencepiece.set_random_generator_seed(1)
        options = {"enable_sampling": True, "alpha": 0.1, "nbest_size": -1}
        if threads:
            pieces = processor.encode(texts, num_threads=threads, **options)
        else:
            pieces = [processor.encode(text, **options) for text in texts]
        found.add(tuple(map(tuple, pieces)))
    return found


counts = {threads: len(batches(threads)) for threads in (0, 1, 2, 4)}
print("different results of 20 batches, by threads (0: text by text):", counts)
assert counts[0] == counts[1] == 1
assert counts[2] > 1 and counts[4] > 1, "the behavior has changed"
PY
