#!/usr/bin/env bash
# gigatoken 0.10.0 and tokenizers 0.23.3: one tokenizer.json, other ids for letters and digits that Unicode 17 added.
#
# Expected: the same byte-level BPE (GPT-2's pre-tokenizer) gives the same ids in both libraries for every valid text.
# What happens: gigatoken classifies characters by Unicode 17 and tokenizers by Unicode 16, so that U+0C5C, U+10940 or
# U+323B0 continue a word in one and end it in the other, and merges across that place differ.
# Why it matters for GPT-2 users: shards are encoded with the fast library and prompts with the other, and a check on
# ordinary text, or on all of Unicode 16, sees no difference.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet gigatoken==0.10.0 tokenizers==0.23.3
"$work/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import gigatoken
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
encoded = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
characters = ["\u00e9", "\u0c5c", "\U00010940", "\U000323b0"]
merges = [("a", lead) for lead in sorted({encoded(character)[0][0][0] for character in characters})]
vocab = {token: i for i, token in enumerate([*alphabet, *map("".join, merges)])}
reference = Tokenizer(models.BPE(vocab, merges))
reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
reference.decoder = decoders.ByteLevel()
fast = gigatoken.Tokenizer.from_json(reference.to_str())
for name in ("gigatoken", "tokenizers"):
    print(name, importlib.metadata.version(name))
differs = []
for character in characters:
    text = "a" + character
    one, other = fast.encode_batch_list([text])[0], reference.encode(text).ids
    print(f"a U+{ord(character):04X}: gigatoken {one}, tokenizers {other}")
    differs.append(list(one) != other)
assert differs == [False, True, True, True], differs
PYTHON
