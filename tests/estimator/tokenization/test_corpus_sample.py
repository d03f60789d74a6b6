"""Text samples for training a vocabulary: bounded, uniform, independent of order, and complete if small enough."""

import random

from estimator.tokenization import corpus_sample
from estimator.tokenization.corpus_sample import Cost, even

TEXTS = [f"document {number} " * 20 for number in range(1000)]
SIZE = sum(map(len, TEXTS))


def test_text_that_fits_is_taken_whole():
    taken = even(iter(TEXTS), limit=SIZE)
    assert taken == (TEXTS, SIZE, SIZE)
    assert str(taken) == "all 258 kB of the text"


def test_a_sample_fills_its_limit_and_keeps_the_order():
    taken = even(iter(TEXTS), limit=SIZE // 4)
    assert 0.99 * SIZE / 4 < taken.size <= SIZE / 4
    assert taken.of_size == SIZE
    places = [TEXTS.index(text) for text in taken.texts]
    assert places == sorted(places)
    assert str(taken) == "a sample of 64.4 kB, evenly taken from 258 kB of text"


def test_every_part_of_the_corpus_has_the_same_share():
    taken = set(even(iter(TEXTS), limit=SIZE // 2).texts)
    shares = [sum(text in taken for text in TEXTS[start : start + 250]) / 250 for start in range(0, 1000, 250)]
    assert all(0.4 < share < 0.6 for share in shares), shares  # half of the text; the standard deviation is 0.032


def test_the_order_of_documents_does_not_change_what_is_taken():
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    assert sorted(even(shuffled, limit=SIZE // 3).texts) == sorted(even(TEXTS, limit=SIZE // 3).texts)


def test_a_smaller_sample_is_part_of_a_larger_one():
    assert set(even(TEXTS, limit=SIZE // 10).texts) < set(even(TEXTS, limit=SIZE // 5).texts)


def test_one_long_document_is_sampled_like_many(monkeypatch):
    monkeypatch.setattr(corpus_sample, "_PARTS", corpus_sample.re.compile(r".{100,}?\n|.+", corpus_sample.re.DOTALL))
    monkeypatch.setattr(corpus_sample, "PART_CHARS", 100)
    lines = [f"line {number} of one file\n" for number in range(2000)]
    whole = "".join(lines)
    assert even([whole], limit=len(whole)).texts == [whole]
    taken = even([whole, "short"], limit=len(whole) // 2)
    assert 0.45 * len(whole) < taken.size <= 0.5 * len(whole)
    assert len(taken.texts) > 100
    assert all(text == "short" or text in whole for text in taken.texts)


def test_a_document_beyond_the_limit_is_still_something():
    assert even(["x" * 50], limit=10).texts == ["x" * 50]
    assert even([], limit=10) == ([], 0, 0)


def test_costs_tell_ascii_from_other_characters():
    cost = Cost(ascii=2, other=100)
    assert cost.of("abc") == 6
    assert cost.of("ab\u65e5\u0440") == 4 + 500
    mixed = ["a" * 50, "\u65e5" * 50] * 10
    assert not any("\u65e5" in text for text in even(mixed, limit=2000, cost=Cost(1, 10_000)).texts[1:])


def test_half_a_surrogate_pair_is_replaced():
    assert even(["a\ud800b"], limit=10).texts == ["a\ufffdb"]
