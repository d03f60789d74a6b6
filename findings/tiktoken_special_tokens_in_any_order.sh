#!/usr/bin/env bash
# tiktoken 0.14.0: of special tokens that begin alike, a longer or a shorter one is found, by the order of a hash table.
#
# Expected: the longest special token that stands at a place is taken, as tokenizers 0.23.3 does; at least always the
#   longest, or always the one with the smaller id.
# Observed: the names are joined to one regular expression in the order of a hash table, and the first that fits wins.
#   "<|user" hides "<|user|>" and "<a>" hides "<a><b>", but "<1>0" is found next to "<1>". With "<x>" and "<y>" as well,
#   "<1>0" is not found any more. Of tokens for 2 to 31 spaces only that for 2 is used. The order of the dictionary and
#   the ids do not matter, and each process does the same. The documentation has no word on it.
# Why it matters: CodeGen and Phi-2 are GPT-2's vocabulary with added tokens for 2 to 31 spaces and 2 to 9 tabs. The same
#   tokens in tiktoken give other ids and more of them, decode to the same text, and the model sees indentation as it
#   never did in training. Encode such tokens as merges, or choose names that do not begin alike.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q tiktoken==0.14.0 tokenizers==0.23.3
"$folder/venv/bin/python" - <<'PY'
import tiktoken
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

print("tiktoken", tiktoken.__version__, "tokenizers", tokenizers.__version__)
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
BYTES = {bytes([i]): i for i in range(256)}


def lengths(text: str, names: list[str]) -> list[list[int]]:
    """The lengths of the special tokens in the text by tiktoken, with the names in two orders, and by tokenizers."""
    result = []
    for ordered in (names, names[::-1]):
        special = {name: 256 + i for i, name in enumerate(ordered)}
        encoding = tiktoken.Encoding("example", pat_str=PATTERN, mergeable_ranks=BYTES, special_tokens=special)
        ids = encoding.encode(text, allowed_special="all")
        assert encoding.decode(ids) == text
        result.append([len(encoding.decode([i])) for i in ids if i > 255])
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    reference = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    reference.pre_tokenizer, reference.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    reference.add_special_tokens(names)
    encoded = reference.encode(text)
    result.append([len(token) for token, i in zip(encoded.tokens, encoded.ids, strict=True) if i > 255])
    if text.strip() or len(text) > 28:
        print(f"{text!r} with {len(names)} special tokens: {result[0]} by tiktoken, {result[2]} by tokenizers")
    assert result[0] == result[1], "the order of the names matters"
    return result


cases = {"<|user|>": ["<|user", "<|user|>"], "<a><b>": ["<a>", "<a><b>"], "<1>0": ["<1>", "<1>0"]}
found = {text: lengths(text, names) for text, names in cases.items()}
assert all(each[2] == [len(text)] for text, each in found.items())
assert [each[0] for each in found.values()] == [[6], [3], [4]], "the behavior has changed"
more = lengths("<1>0", [*cases["<1>0"], "<x>", "<y>"])
assert more[0] == [3] and more[2] == [4], "the behavior has changed"

spaces = [" " * i for i in range(2, 32)]  # as in CodeGen and Phi-2
seen = {len(text): lengths(text, spaces) for text in spaces}
assert all(each[2] == [length] for length, each in seen.items())
whole = [length for length, each in seen.items() if each[0] == [length]]
print("runs of spaces that are one token in tiktoken:", whole)
assert whole == [2], "the behavior has changed"
PY
