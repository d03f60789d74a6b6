#!/usr/bin/env bash
# tokenizers 0.23.3: where the ids of a vocabulary have a hole, an added token gets the id of another token.
#
# Expected: add_tokens and add_special_tokens give ids that no token has, above the largest one.
# Observed: the first new id is the number of the vocabulary's entries, whatever their ids are. With ids 0 to 255 and 300
#   to 303, the new tokens get 260, 261 and so on; the 41st one gets 300, an ordinary token's, and the embeddings of
#   those two are one. decode then writes the added token for both. get_vocab shows the id twice and to_str keeps it.
#   It is the same on loading: the "id" that a tokenizer.json gives an added token is not taken, but the next number,
#   so a file that says 260 is read as 259. get_vocab_size is 260, though ids go up to 303. Nothing raises.
# Why it matters: vocabularies are pruned to a language without changing the ids of a trained GPT-2, or get a reserved
#   gap. Below, with one unused token removed, the first special token added for chats is decoded for the last merge of
#   the vocabulary, and the model cannot tell them apart.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PY'
import json

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

print("tokenizers", tokenizers.__version__)
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
merges = [("t", "h"), ("th", "e"), ("i", "n"), ("in", "g")]
words = ["".join(merge) for merge in merges]


def tokenizer(first: int, *, without: str = "") -> Tokenizer:
    """A byte-level BPE whose four merged tokens have ids from this one on, and which has no token for this byte."""
    vocabulary = {letter: i for i, letter in enumerate(letters) if letter != without}
    vocabulary |= {word: first + i for i, word in enumerate(words)}
    result = Tokenizer(models.BPE(vocabulary, merges))
    result.pre_tokenizer, result.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return result


whole = tokenizer(256)
whole.add_special_tokens(["<|user|>"])
assert whole.token_to_id("<|user|>") == 260
text = "<|user|>the thing"
assert whole.decode(whole.encode(text).ids, skip_special_tokens=False) == text

pruned = tokenizer(256, without="þ")  # the byte FE, which no valid UTF-8 has
ids = pruned.encode("the thing").ids
assert pruned.decode(ids) == "the thing"
pruned.add_special_tokens(["<|user|>"])
token, same = pruned.token_to_id("<|user|>"), pruned.token_to_id("ing")
print(f"without one byte: size {pruned.get_vocab_size()}, <|user|> is {token}, 'ing' is {same}")
assert token == same == 259, "the behavior has changed"
decoded = pruned.decode(ids, skip_special_tokens=False), pruned.decode(ids)
print(f"'the thing' is {ids}, decoded {decoded[0]!r}, without special tokens {decoded[1]!r}")
assert decoded == ("the th<|user|>", "the th"), "the behavior has changed"
again = Tokenizer.from_str(pruned.to_str())
assert again.token_to_id("<|user|>") == again.token_to_id("ing") == 259, "the behavior has changed"

contents = json.loads(whole.to_str())
del contents["model"]["vocab"]["þ"]
print("tokenizer.json without that byte:", [(token["content"], token["id"]) for token in contents["added_tokens"]], end="")
loaded = Tokenizer.from_str(json.dumps(contents))
print(", loaded:", loaded.token_to_id("<|user|>"), "and 'ing'", loaded.token_to_id("ing"))
assert contents["added_tokens"][0]["id"] == 260 and loaded.token_to_id("<|user|>") == 259, "the behavior has changed"
assert loaded.token_to_id("ing") == 259

gap = tokenizer(300)
gap.add_tokens([f"<{i}>" for i in range(50)])
vocabulary = gap.get_vocab()
shared = sorted(name for name, i in vocabulary.items() if list(vocabulary.values()).count(i) > 1)
print("with a gap below 300, 50 tokens added: tokens that share an id:", shared)
assert shared == sorted([*words, "<40>", "<41>", "<42>", "<43>"]), "the behavior has changed"
PY
