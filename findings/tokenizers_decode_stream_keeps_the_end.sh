#!/usr/bin/env bash
# tokenizers 0.23.3: DecodeStream never gives out a text's last characters where they are U+FFFD.
#
# Expected: the pieces of DecodeStream.step joined are decode(ids), at the latest with the last token. A stream waits
#   only for bytes that are missing in the middle of a character.
# Observed: it takes every text that ends with U+FFFD for an unfinished character, and waits for the next token. After the
#   last one nothing comes, and the class has no flush. A complete, valid U+FFFD is kept back as well, and so is a whole
#   run of them. In the middle of a text they come with the next character.
# Why it matters: web text is full of U+FFFD, and GPT-2's vocabulary has tokens for one and for several of them, so models
#   write it. A server that streams by DecodeStream sends another text than one that answers whole: the client's copy
#   of a chat is shorter, and its prompt for the next turn has other tokens. After the end, compare with decode(ids).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PY'
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
tokenizer = Tokenizer(models.BPE(vocab, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
print("tokenizers", tokenizers.__version__)
equal = {}
for text in ("caf\u00e9", "a \ufffd b", "a \ufffd", "a \ufffd\ufffd\ufffd"):
    ids = tokenizer.encode(text).ids
    stream = decoders.DecodeStream()
    pieces = [stream.step(tokenizer, i) for i in ids]
    streamed = "".join(piece or "" for piece in pieces)
    assert tokenizer.decode(ids) == text
    print(f"decode: {text!a}, DecodeStream: {streamed!a}")
    equal[text] = streamed == text
print("methods:", [name for name in dir(stream) if not name.startswith("_")])
assert list(equal.values()) == [True, True, False, False], "the behavior has changed"
PY
