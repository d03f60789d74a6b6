"""MinHash near-duplicate detection, compared with the exact Jaccard similarity of small sets."""

import itertools
import random
from hashlib import sha256

import numpy as np
import pytest

from estimator.corpus import minhash
from estimator.corpus.minhash import HASHES, WORD, band_rows, duplicates, signatures
from estimator.errors import UserError

WORDS = [f"w{number}" for number in range(5000)]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def random_text(rng: random.Random, words: int = 300) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def changed(text: str, rng: random.Random, changes: int) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), changes):
        words[place] = rng.choice(WORDS)
    return " ".join(words)


def test_share_of_equal_numbers_estimates_the_exact_jaccard_similarity():
    rng = random.Random(0)
    errors = []
    for changes in (0, 2, 5, 10, 20, 40) * 10:
        text = random_text(rng)
        pair = [text, changed(text, rng, changes)]
        a, b = signatures(pair)
        errors.append(float((a == b).mean()) - jaccard(*pair))
    # The standard error of one estimate is at most 0.5 / sqrt(128) = 0.044, and 0.006 for the mean of sixty.
    assert abs(np.mean(errors)) < 0.02
    assert max(map(abs, errors)) < 4.5 * 0.044


def test_signatures_agree_with_datasketch_about_similarity():
    datasketch = pytest.importorskip("datasketch", reason="a second MinHash to compare with")
    rng = random.Random(1)
    differences = []
    for changes in (3, 8, 15) * 8:
        text = random_text(rng)
        pair = [text, changed(text, rng, changes)]
        sketches = [datasketch.MinHash(num_perm=HASHES) for _ in pair]
        for sketch, each in zip(sketches, pair, strict=True):
            sketch.update_batch(" ".join(shingle).encode() for shingle in shingles(each))
        a, b = signatures(pair)
        differences.append(float((a == b).mean()) - sketches[0].jaccard(sketches[1]))
    assert abs(np.mean(differences)) < 0.03


def test_what_is_dropped_is_what_exact_jaccard_would_drop():
    rng = random.Random(2)
    texts, expected = [], []
    for number in range(60):
        text = random_text(rng)
        texts.append(text)
        expected.append(False)
        # Similarity is about 0.93 after 2 changes in 300 words, and below 0.6 after 25.
        texts.append(changed(text, rng, 2 if number % 2 else 25))
        expected.append(bool(number % 2))
        assert (jaccard(texts[-2], texts[-1]) > 0.9) == expected[-1]
    order = list(range(len(texts)))
    rng.shuffle(order)
    dropped = duplicates([signatures(texts[i] for i in order)])
    for pair in range(0, len(texts), 2):
        places = sorted((order.index(pair), order.index(pair + 1)))
        assert [bool(dropped[place]) for place in places] == [False, expected[pair + 1]]


def test_result_is_the_same_however_the_signatures_are_divided(tmp_path):
    rng = random.Random(3)
    texts = [random_text(rng, 100) for _ in range(30)]
    texts += [changed(rng.choice(texts), rng, 1) for _ in range(60)]
    rng.shuffle(texts)
    whole = signatures(texts)
    expected = duplicates([whole])
    assert 20 < expected.sum() <= 60
    for sizes in ([90], [1] * 90, [0, 17, 0, 60, 13, 0]):
        parts = np.split(whole, np.cumsum(sizes)[:-1])
        assert np.array_equal(duplicates(parts), expected)
    np.save(tmp_path / "signatures.npy", whole)
    assert np.array_equal(duplicates([np.load(tmp_path / "signatures.npy", mmap_mode="r")]), expected)


def test_small_blocks_give_the_same_result(monkeypatch):
    rng = random.Random(4)
    texts = [random_text(rng, 100) for _ in range(20)]
    texts += [changed(text, rng, 1) for text in texts]
    whole = duplicates([signatures(texts)])
    assert whole.sum() >= 15
    monkeypatch.setattr(minhash, "BLOCK_ROWS", 3)
    monkeypatch.setattr(minhash, "BLOCK_SHINGLES", 7)
    assert np.array_equal(duplicates([signatures(texts)]), whole)


def test_alike_through_others_leaves_the_first_only():
    rng = random.Random(5)
    texts = [random_text(rng)]
    for _ in range(9):
        texts.append(changed(texts[-1], rng, 2))
    assert duplicates([signatures(texts)]).tolist() == [False] + [True] * 9


def test_case_punctuation_and_spacing_do_not_count_and_short_texts_are_compared_whole():
    one, two, three, four = signatures(["A short, text!", "a  SHORT text", "a short texts", ""])
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)
    assert not np.array_equal(one, four)


def test_writing_without_spaces_is_compared_by_characters():
    rng = random.Random(7)
    text, other = ("".join(chr(rng.randrange(0x4E00, 0x5E00)) for _ in range(80)) for _ in range(2))
    a, b, c = signatures([text, text.replace(text[40], "\u6c34"), other])
    assert (a == b).mean() > 0.6
    assert (a == c).mean() < 0.1


EMOJI = "\U0001f600\U0001f680\U0001f40d\u2764\ufe0f\u2603\U0001f9ff\U0001f469\u200d\U0001f680"


@pytest.mark.parametrize(
    "alphabet",
    [EMOJI, "".join(map(chr, range(0x2800, 0x2900))), "!?.,;:-#*()[]{}", "\u2190\u2191\u2192\u2193\u2200\u2203\u221e"],
)
@pytest.mark.parametrize("title", ["", "cat\n"])
def test_texts_of_symbols_are_duplicates_only_if_nearly_equal(alphabet, title):
    if title and alphabet.startswith("!"):
        return  # punctuation next to words does not count
    rng = random.Random(8)
    texts = [title + "".join(rng.choices(alphabet, k=length)) for length in (4, 5, 8, 200, 200, 200)]
    equal = texts[3]
    nearly = texts[4].replace(texts[4][-3:], "") if len(alphabet) > 200 else texts[4][:-3]
    spaced = " ".join(texts[5])
    every = [*texts, equal, nearly, spaced]
    assert duplicates([signatures(every)]).tolist() == [False] * len(texts) + [True] * 3


def test_signatures_of_ordinary_texts_never_change():
    """Signatures of different versions are compared; these are of the first one."""
    texts = [
        "A short, text!",
        "The quick brown fox \U0001f98a jumps over the lazy dog \u2014 and (again) over it; 1 + 1 = 2!",
        "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3067\u3059\u3002",
        "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902 \u0936\u092c\u094d\u0926 \u0939\u0948\u0902",
        "x = { 'a': [1, 2], 'b': (3, 4) } # == code ==",
        "",
    ]
    assert (
        sha256(signatures(texts).tobytes()).hexdigest()
        == "147f76a4aecce9d01a8890600c4bcbe74980f47a05d0269d73ac0e89d7e166a8"
    )


def test_no_documents_and_lone_surrogates_are_no_trouble():
    assert duplicates([]).shape == (0,)
    assert duplicates([signatures([])]).shape == (0,)
    assert duplicates([signatures(["\ud800 a b c d e f", "\ud800 a b c d e f"])]).tolist() == [False, True]


def test_bands_are_chosen_by_the_threshold():
    assert [band_rows(threshold) for threshold in (1.0, 0.95, 0.8, 0.6, 0.2)] == [32, 16, 8, 4, 2]
    for bad in (0, -1, 1.5):
        with pytest.raises(UserError, match="above 0 and at most 1"):
            duplicates([signatures(["a"])], threshold=bad)


def test_threshold_separates_pairs_above_from_pairs_below():
    rng = random.Random(6)
    counts = {"found above": 0, "above": 0, "found below": 0, "below": 0}
    for changes in itertools.chain.from_iterable([(3, 12)] * 60):
        text = random_text(rng)
        pair = [text, changed(text, rng, changes)]
        kind = "above" if jaccard(*pair) > 0.88 else "below"
        counts[kind] += 1
        counts[f"found {kind}"] += int(duplicates([signatures(pair)]).sum())
    assert counts["found above"] >= 0.95 * counts["above"] > 40
    assert counts["found below"] == 0 < counts["below"]
