"""Quality filters: each rule drops the documents it targets, reports its name, and keeps ordinary text."""

import random

import pytest
from helpers.web_archives import text

from benchmarks._foreign import VOCABULARY, sentences
from estimator.corpus import quality_filters
from estimator.corpus.quality_filters import RULES, reason

ENGLISH = text(1)
WORDS = [f"word{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}" for i in range(500)]


def lines(count: int, end: str = "") -> str:
    rng = random.Random(count)
    return "\n".join(" ".join(rng.choices(WORDS, k=8)) + " the of" + end for _ in range(count))


CASES = {
    "too_short": "The end of the story and that is all.",
    "too_long": " ".join(f"the of {WORDS[number % 500]}{number}" for number in range(40_000)),
    "word_length": " ".join(["a", "of", "to", "it"] * 20),
    "symbols": " ".join(f"#{word} the of" for word in WORDS[:60]),
    "bullets": "\n".join(f"- {line}" for line in lines(20).split("\n")),
    "ellipses": "\n".join([lines(20, end=" ..."), lines(30)]),
    "not_words": lines(20) + " 12 34 56 78 90" * 25,
    "stop_words": " ".join(WORDS[:200]),
    "repeated_lines": lines(10) + "\n" + "\n".join([lines(1)] * 9),
    "repeated_words": " ".join([" ".join(WORDS[:20]) + " the of"] * 3 + [lines(10)]),
    "boilerplate": lines(20) + "\nLorem ipsum dolor sit amet.",
}


def test_every_rule_has_a_case():
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_drops_what_it_is_for(name):
    assert reason(CASES[name], language="en", rules=(name,)) == name
    assert reason(ENGLISH, language="en", rules=(name,)) is None


def test_ordinary_text_passes_all_rules():
    for number in range(20):
        assert reason(text(number), language="en") is None
    assert reason(ENGLISH, rules=()) is None


@pytest.mark.parametrize("language", VOCABULARY)
def test_other_languages_pass_the_rules_that_are_for_them(language):
    rng = random.Random(3)
    content = "\n".join(sentences(language, rng) for _ in range(8))
    # Sentences from a small vocabulary are repetitive, so leave out the rules for repetition.
    rules = tuple(name for name in RULES if not name.startswith("repeated"))
    assert reason(content, language=language, rules=rules) is None


def test_the_rule_of_english_words_is_for_english():
    assert reason(CASES["stop_words"], language="de", rules=("stop_words",)) is None


def test_the_first_rule_that_is_broken_is_told():
    assert reason("", language="en") == "too_short"
    assert reason(CASES["stop_words"] + "\nlorem ipsum", language="en") == "stop_words"


def test_repeated_runs_count_each_character_once_as_a_plain_count_does():
    rng = random.Random(0)
    for _ in range(20):
        words = rng.choices(WORDS[:12], k=80)
        for size in (5, 6):
            seen, expected, at = set(), 0, 0
            runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
            free = 0
            for at, run in enumerate(runs):
                if run in seen and at >= free:
                    expected += sum(map(len, run))
                    free = at + size
                seen.add(run)
            firsts = quality_filters.np.array([runs.index(run) for run in runs])
            chars = quality_filters.np.array([sum(map(len, run)) for run in runs])
            assert quality_filters._chars_in_repeated_runs(firsts, chars, size) == expected
