"""The text sanitizer: texts with known parts, and regressions from xeb/gpt-2's rules."""

import random
import re

import pytest
from pydantic import TypeAdapter, ValidationError

from serving.sanitizer import Rule, Sanitizer, dixie

DIXIE = Sanitizer(dixie(["ann", "bob"]))
RULES = TypeAdapter(list[Rule])


def clean(text: str, *rules: dict) -> str:
    return Sanitizer(RULES.validate_python(list(rules))).clean(text)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (
            "0|ann|Hello there <EOM>0|ann|How are you? <EOM>1|ann|Fine (really) <EOM>0|bob|ok <EOM>0|ann|fifth",
            "Hello there How are you? Fine really ok",
        ),
        ("|ann|hi", "hi"),
        ("|bob|hi", "hi"),
        ("0|+bob|hi<EOM>", "hi"),
        ("room 100 is 20 m", "room 100 is 20 m"),
        ("at SEA said 1 thing and 20 things", "at S. E. A. said 1 thing and 20 things"),
        ("go to http://a.b/https?a=1&b=2", "go to a.b/https?a=1&b=2"),
        ("(see https://a.b/c_(d), ok)", "see a.b/c_(d), ok"),
        ("the SEA. The SEASON", "the S. E. A. The SEASON"),
        ("Q & A \u2615\ufe0f\u2764\ufe0f now", "Q and A now"),
        ("1 + 1 = 2, call +1 555, 20 \u00b0C", "1 + 1 = 2, call +1 555, 20 \u00b0C"),
        ("a = b + c -- d", "a b c d"),
        ("\n0|ann|0<EOM>", "0"),
        ("0<EOM>", "0"),
    ],
)
def test_dixie_makes_text_speakable(text, cleaned):
    assert DIXIE.clean(text) == cleaned


@pytest.mark.parametrize("cut", range(1, len("Hi <EOM>\n0|ann|")))
def test_an_answer_cut_in_a_marker_or_a_head_has_neither(cut):
    assert DIXIE.clean("0|ann|" + "Hi <EOM>\n0|ann|"[: cut + 1]) in ("H", "Hi")


def random_words(rng: random.Random) -> list[str]:
    kinds = [
        lambda: str(rng.randrange(10 ** rng.randrange(1, 6))),
        lambda: "".join(rng.choices("abcxyz", k=rng.randrange(1, 8))),
        lambda: f"http{rng.choice(['', 's'])}://h{rng.randrange(30)}.org/p--{rng.randrange(9)}?q=1&r=0+2",
        lambda: f"{rng.randrange(10)}:{rng.randrange(10, 60)}",
    ]
    return [rng.choice(kinds)() for _ in range(rng.randrange(1, 12))]


@pytest.mark.parametrize("seed", range(5))
def test_words_digits_and_addresses_survive_in_order(seed):
    """Messages made of known words must yield these words, regardless of the markers and noise around them."""
    rng = random.Random(seed)
    for _ in range(60):
        messages = [random_words(rng) for _ in range(rng.randrange(1, 5))]
        noise = ["", "", "  ", "<", ">", "|", " -- ", "(", ")", "\u2764\ufe0f"]
        text = "<EOM>\n".join(
            f"{rng.choice('01')}|{rng.choice(['', '+'])}{rng.choice(['ann', 'bob'])}|"
            + "".join(f"{rng.choice(noise)} {word} {rng.choice(noise)}" for word in words)
            for words in messages
        )
        wanted = [re.sub("^https?://", "", word) for words in messages for word in words]
        assert DIXIE.clean(text).split() == wanted


@pytest.mark.parametrize("seed", range(5))
def test_any_text_is_cleaned_once_for_all(seed):
    rng = random.Random(seed)
    for _ in range(60):
        pieces = ["<EOM>", "<", "EOM>", "|", "0", "1", "ann", "bob", "+", " ", "\n", " http://a.b/c "]
        pieces += ["(", "&", "SEA", "--", "x"]
        text = "".join(rng.choices(pieces, k=rng.randrange(30)))
        cleaned = DIXIE.clean(text)
        assert DIXIE.clean(cleaned) == cleaned
        assert not re.search(r"<EOM>|\||  |^\s|\s$", cleaned)


def test_rules_of_a_configuration():
    assert clean("a  b\n c ", {"rule": "spaces"}) == "a b c"
    assert clean(" a  b \n c ", {"rule": "spaces", "lines": True}) == "a b\nc"
    assert clean("Tom: tomb", {"rule": "replace", "texts": ["tom"], "words": True, "ignore_case": True}) == ": tomb"
    assert clean("aab http://aab.c", {"rule": "replace", "texts": ["a", "aa"], "by": "-"}) == "-b http://aab.c"
    assert clean(r"x12", {"rule": "pattern", "pattern": r"\d", "by": r"\1"}) == r"x\1\1"
    doubled = {"rule": "pattern", "pattern": r"\b(\w+) \1\b", "by": "twice"}
    assert clean("the the http://a.b/the the cat cat", doubled) == "twice http://a.b/the the twice"
    assert clean("FOO http://foo.b/foo", {"rule": "pattern", "pattern": "(?i)foo", "by": "x"}) == "x http://foo.b/foo"
    assert clean("a\nFOO", {"rule": "pattern", "pattern": "(?i)(?m)^foo", "by": "x"}) == "a\nx"
    assert clean("foo http://foo", {"rule": "pattern", "pattern": "(?x) f o o # foo", "by": "x"}) == "x http://foo"
    assert clean("see https://me@a.b:80/c?d.", {"rule": "urls", "keep": "host"}) == "see a.b:80."
    assert clean("see http://a.b/c!", {"rule": "urls", "keep": "nothing"}) == "see !"
    assert clean("1\ufe0f\u20e3 \U0001f468\u200d\U0001f469\u200d\U0001f467!", {"rule": "emoji"}).split() == ["1", "!"]
    assert clean("0|Zoe B|a#0|x|b#c", {"rule": "chat", "end": "#", "messages": None}) == "a b c"
    assert clean("as it is  ") == "as it is  "


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"rule": "pattern", "pattern": "("}, "not a regular expression"),
        ({"rule": "pattern", "pattern": "a)|(b"}, "not a regular expression"),
        ({"rule": "shout"}, "shout"),
        ({"rule": "spaces", "line": True}, "line"),
        ({"rule": "replace", "texts": [""]}, "at least 1"),
        ({"rule": "spell", "words": ["a|b"]}, "words"),
    ],
)
def test_a_wrong_rule_is_refused(rule, message):
    with pytest.raises(ValidationError, match=message):
        RULES.validate_python([rule])


def test_settings_of_old_servers():
    assert Sanitizer.of("sanitizers.chatbot", names=["ann"]).clean("1|ann|hi<EOM>") == "hi"
    assert Sanitizer.of("dixie").clean("1|anybody|hi<EOM>") == "hi"
    assert Sanitizer.of([]).clean(" x ") == " x "
