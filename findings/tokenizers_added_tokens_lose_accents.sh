#!/usr/bin/env bash
# tokenizers 0.23.3: the added token "café" is decoded as "caf" and U+FFFD, with a byte-level tokenizer as GPT-2's.
#
# Expected: decode(encode(text)) is the text, for added tokens are matched in the text before it is cut into bytes.
# Observed: the ByteLevel decoder takes the content of an added token for byte-level text. Where each of its characters
#   stands for a byte (those of Latin-1 that print, and U+0100 to U+0143), the bytes are put in: é is the byte E9 and no
#   UTF-8, ß the byte DF, "č" becomes a line end, "đ" a control character. One character outside of that range makes the
#   token right: "café au lait" has a space, "мир" and "日本" have no such letters. add_special_tokens is the same.
#   The ids are right, and so are tokens, offsets and id_to_token. huggingface/tokenizers#1392 (2023) and #1996 (2026)
#   report it. The fixes help where ByteLevel is the normalizer; in GPT-2's tokenizer.json it is the pre-tokenizer.
# Why it matters: words or names of speakers added to GPT-2's vocabulary for French, German, Czech or Vietnamese train
#   as expected, and all generated text has them broken. A test with English or Russian words passes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PY'
import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

print("tokenizers", tokenizers.__version__)
words = ["café", "Straße", "<|Čapek|>", "đem", "café au lait", "мир", "日本"]
vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
found = {}
for word in words:
    for kind in ("add_tokens", "add_special_tokens"):
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        text = f"un {word}, é"
        plain = tokenizer.encode(text)
        assert tokenizer.decode(plain.ids) == text
        getattr(tokenizer, kind)([word])
        encoded = tokenizer.encode(text)
        assert encoded.tokens[3] == word and encoded.ids[3] == 256
        found.setdefault(word, []).append(tokenizer.decode(encoded.ids, skip_special_tokens=False))
    print(ascii(text), "->", *map(ascii, found[word]))
tokenizer = Tokenizer(models.BPE(vocabulary, []))
tokenizer.normalizer, tokenizer.decoder = normalizers.ByteLevel(), decoders.ByteLevel()
tokenizer.add_tokens(["café"])
normalized = tokenizer.decode(tokenizer.encode("un café, é").ids)
print("as the normalizer:", ascii(normalized))
seen = ["caf\ufffd", "Stra\ufffde", "<|\fapek|>", "\x11em", *words[4:]]
assert found == {word: [f"un {text}, é"] * 2 for word, text in zip(words, seen)}, "the behavior has changed"
PY
