"""American English: phrases that native technical writers do not use may only become fewer.

`python3 tests/test_english.py` prints the phrases of each file, and the minimal table ALLOWED.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Regular expression for lowercase text, and the suggested replacement.
BANNED = {
    r"\bwhat (?:is|was|are|were) (?!the\b|this\b|it\b|wrong\b)\w+": "name the thing: files, text, state",
    r"\bbeside\b": "next to, with, along with",
    r"\b(?:go|goes|went|gone|going) on\b": "continue",
    r"\banew\b": "again",
    r"\bat once\b": "immediately, or at the same time",
    r"\b(?:is|are|was|were) (?:told|said)\b(?! to)": "reports, prints, names",
    r"\b(?:by itself|by themselves)\b": "alone, automatically",
    r"\bfor ever\b": "forever",
    r"\bbut for\b": "except for",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bthe seed's\b": "ConnorJL/GPT2's",
    r"\b(?:is|are|was|were) there\b(?=[.,;:)]|$)": "exists, is present",
    r"\b(?:lies|lay)\b": "is",
    r"\blearnt\b": "learned",
    r"\b(?:colour|behaviour|neighbour|favour|centre|licence|grey)": "American spelling",
    r"\b(?:optimis|tokenis|normalis|initialis|serialis|organis|recognis|summaris|randomis)\w": "American: -ize",
}
PATTERN = re.compile("|".join(f"(?:{pattern})" for pattern in BANNED))

# Occurrences per directory, including subdirectories. Lower these numbers when texts improve; never raise them.
ALLOWED: dict[str, int] = {
    "benchmarks": 2,
    "crawler": 2,
    "docs": 4,
    "estimator/corpus": 1,
    "tests/crawler": 1,
    "tests/estimator": 9,
    "tests/helpers": 9,
    "tests/models": 3,
    "tests/serving": 1,
}


def folder_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2] if parts[0] in ("estimator", "tests", "models") and len(parts) > 2 else parts[:1])


def files() -> list[Path]:
    paths = (path for ending in ("*.py", "*.md") for path in ROOT.rglob(ending))
    skipped = ("runs", "logs", "build", "downloads", "data")
    return sorted(
        path
        for path in paths
        if path != Path(__file__).resolve()
        and path.relative_to(ROOT).parts[0] not in skipped
        and not any(part.startswith(".") and part != ".github" for part in path.relative_to(ROOT).parts)
    )


def phrases(path: Path) -> list[str]:
    """Returns the banned phrases of a file, including those that span lines."""
    return PATTERN.findall(re.sub(r"\s+(?:# )?", " ", path.read_text(encoding="utf-8").lower()))


def counts() -> Counter[str]:
    return Counter(folder_of(path) for path in files() for _ in phrases(path))


FOUND = counts()


@pytest.mark.parametrize("folder", sorted({folder_of(path) for path in files()}))
def test_no_phrase_is_added(folder):
    allowed = ALLOWED.get(folder, 0)
    assert FOUND[folder] <= allowed, (
        f"{folder} has {FOUND[folder]} phrases to avoid, {allowed} at most: python3 tests/test_english.py {folder}"
    )


@pytest.mark.parametrize("text", ["It goes on.", "what is left", "The file\nis there.", "wrote it anew", "a Licence"])
def test_phrases_are_found(text, tmp_path):
    path = tmp_path / "x.md"
    path.write_text(text)
    assert phrases(path)


def test_plain_text_is_left_alone(tmp_path):
    path = tmp_path / "x.md"
    path.write_text("There are two files. What is the size? It continues. Besides, the license says so.")
    assert phrases(path) == []


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for file in files():
        if folder_of(file).startswith(wanted) and (found := phrases(file)):
            print(f"{file.relative_to(ROOT)}: {', '.join(found)}")
    print("ALLOWED: dict[str, int] = {")
    for name, number in sorted(FOUND.items()):
        print(f'    "{name}": {number},')
    print("}")
