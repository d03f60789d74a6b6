#!/usr/bin/env bash
# bm25s 0.3.16: `bm25s.tokenize` leaves out words of one character, so "vitamin C" finds "vitamin D" as well, and texts
#   of a language whose words are single characters are empty.
#
# Expected: a document that has both words of the query comes before one that has one of them.
# Observed: the default pattern takes words of two characters and more, from scikit-learn. "vitamin C" and "vitamin D"
#   have the same score, "a book in C" and "a book in R" are the same document, and "你 好" has no token. A query
#   without tokens is no error: the first documents are the answer, with scores of 0.
# Why it matters: names of programming languages, grades, sizes and variables are such words, and so is much of Chinese
#   when a segmenter has put spaces between words. Retrieved documents look plausible and are the wrong ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q bm25s==0.3.16 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import bm25s

print("bm25s", version("bm25s"))
TEXTS = ["vitamin D helps", "vitamin C helps", "a book in R", "a book in C", "\u4f60 \u597d"]


def tokenized(texts: list[str], **options: object) -> bm25s.tokenization.Tokenized:
    return bm25s.tokenize(texts, show_progress=False, **options)


def search(query: str, **options: object) -> list[tuple[int, float]]:
    """(number of the document, score), best first."""
    retriever = bm25s.BM25()
    retriever.index(tokenized(TEXTS, **options), show_progress=False)
    documents, scores = retriever.retrieve(tokenized([query], **options), k=2, show_progress=False)
    return [(int(document), round(float(score), 3)) for document, score in zip(documents[0], scores[0])]


print("tokens:", sorted(tokenized(TEXTS).vocab))
assert sorted(tokenized(TEXTS).vocab) == ["book", "helps", "vitamin"], "the behavior has changed"
(first, score), (_, other) = search("vitamin C")
print("vitamin C:", search("vitamin C"))
assert score == other > 0, "the behavior has changed"
print("\u4f60:", search("\u4f60"))
assert [score for _, score in search("\u4f60")] == [0.0, 0.0], "the behavior has changed"
(first, score), (_, other) = search("vitamin C", token_pattern=r"(?u)\b\w+\b", stopwords=[])
assert (first, score > other) == (1, True)
PY
