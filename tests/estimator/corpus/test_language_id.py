"""Language identification, and the fraction of a text that is in the detected language."""

import random

import pytest
from helpers.web_archives import text

from benchmarks._foreign import VOCABULARY, sentences
from estimator.corpus import language_id
from estimator.corpus.language_id import Language, language_of
from estimator.errors import UserError

pytest.importorskip("py3langid", reason="identifies languages")


@pytest.mark.parametrize("language", VOCABULARY)
def test_languages_are_told_apart(language):
    assert language_of(sentences(language, random.Random(0), count=12)) == Language(language, 1.0)


def test_english_is_english():
    assert language_of(text(1, sentences=40)) == Language("en", 1.0)


def test_a_mixed_text_says_how_much_is_in_its_language():
    english = text(2, sentences=60)[:3000]
    german = sentences("de", random.Random(0), count=60)[:2000]
    found = language_of(english + german)
    assert found.code == "en"
    assert 0.5 <= found.share <= 0.7


def test_a_text_without_letters_has_no_language():
    assert language_of("12 34 -- 56\n") == Language("", 0.0)
    assert language_of("") == Language("", 0.0)


def test_an_unknown_code_is_refused():
    language_id.require(("en", "de"))
    with pytest.raises(UserError, match="no language 'english'"):
        language_id.require(("english",))
