#!/usr/bin/env bash
# tokenizers 0.23.3: WordPieceTrainer makes another vocabulary of the same text each time, in one process.
#
# Expected: the algorithm has no random part and no seed, so equal text gives equal tokens and ids, as BpeTrainer does for
#   byte-level text. The documentation of the trainers says nothing else.
# Observed: tokens that continue a word ("##s", or those of BpeTrainer's continuing_subword_prefix) get their ids in the
#   order of a hash table, whose seed is new for every training, and ids break ties between merges of equal count.
#   Below some tokens differ, a third of the ids, and the tokens of the text. UnigramTrainer sums probabilities in such
#   an order: its tokens are the same, the scores and so some ids are not. RAYON_NUM_THREADS=1 and PYTHONHASHSEED
#   change nothing. huggingface/tokenizers#1794 (2025, open) reports it for WordPiece.
# Why it matters: training is repeated to check a release, on each node of a cluster, or in a cache that was emptied. A
#   model with the tokenizer of another run reads wrong ids: the sizes agree, and much of the text looks right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q tokenizers==0.23.3
RAYON_NUM_THREADS=1 PYTHONHASHSEED=0 "$folder/venv/bin/python" - <<'PY'
import random

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

print("tokenizers", tokenizers.__version__)
TIMES, SIZE = 10, 400
random.seed(0)
syllables = [start + vowel for start in "bdfgklmnprst" for vowel in "aeiou"]
words = ["".join(random.choices(syllables, k=random.randint(1, 4))) for _ in range(2000)]
text = " ".join(words)
options = {"vocab_size": SIZE, "show_progress": False, "special_tokens": ["[UNK]"]}
trainings = {
    "BPE": lambda: (models.BPE(unk_token="[UNK]"), trainers.BpeTrainer(**options)),
    "WordPiece": lambda: (models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer(**options)),
    "Unigram": lambda: (models.Unigram(), trainers.UnigramTrainer(unk_token="[UNK]", **options)),
}
found = {}
for name, training in trainings.items():
    results = []
    for _ in range(TIMES):
        model, trainer = training()
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.train_from_iterator([text], trainer)
        results.append((tokenizer.get_vocab(), tuple(tokenizer.encode(text).tokens)))
    vocabularies = [vocabulary for vocabulary, _ in results]
    sets = {frozenset(vocabulary) for vocabulary in vocabularies}
    ids = {tuple(sorted(vocabulary.items())) for vocabulary in vocabularies}
    moved = sum(vocabularies[0].get(token) != i for token, i in vocabularies[1].items())
    found[name] = len(sets), len(ids), len({tokens for _, tokens in results})
    print(f"{name}, trained {TIMES} times: {found[name][0]} different sets of tokens, {found[name][1]} different "
          f"vocabularies, {found[name][2]} ways to write the text; of {len(vocabularies[1])} tokens of the second "
          f"training {moved} have another id in the first")
assert found["BPE"] == (1, 1, 1)
assert found["WordPiece"][0] > 1 and found["WordPiece"][1] > 1 and found["WordPiece"][2] > 1, "the behavior has changed"
assert found["Unigram"][1] > 1, "the behavior has changed"
PY
