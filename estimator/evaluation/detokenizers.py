"""De-tokenizers of the corpora that GPT-2 was published with, and the words that perplexity is computed for.

GPT-2 (Radford et al. 2019, section 3.1) scores text without the tokenization of these corpora and divides by the number
of their own words. Its de-tokenizers were never published. These are the rules in use since: Megatron-LM's for
WikiText-103 and PTB (tasks/zeroshot_gpt/detokenizer.py; lm-evaluation-harness has the same for WikiText), and those of
lm-evaluation-harness 0.3.0 for the Children's Book Test. They are applied literally, known faults included, so that
numbers can be compared: a rule of Megatron-LM for `' 9` never matches any text and is left out.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

_MARKS = ":;.!?,"


def wikitext(text: str) -> str:
    """WikiText-2 and -103, raw or with <unk>, which stays."""
    text = text.replace("s '", "s'")
    for mark in "-,.":
        text = text.replace(f" @{mark}@ ", mark)
    for mark in _MARKS:
        text = text.replace(f" {mark} ", f"{mark} ")
    for pattern in (r"\(\s*([^\)]*?)\s*\)", r"\[\s*([^\]]*?)\s*\]", r"{\s*([^}]*?)\s*}"):
        text = re.sub(pattern, lambda match: f"{match[0][0]}{match[1]}{match[0][-1]}", text)
    for mark in "\"'":
        text = re.sub(rf"{mark}\s*([^{mark}]*?)\s*{mark}", rf"{mark}\1{mark}", text)
    for spaced in ("= = = =", "= = =", "= ="):
        text = text.replace(spaced, spaced.replace(" ", ""))
    text = text.replace(f" {chr(176)} ", chr(176))
    text = text.replace(" \n", "\n").replace("\n ", "\n")
    return text.replace(" N ", " 1 ").replace(" 's", "'s")


def ptb(text: str) -> str:
    """The Penn Treebank as prepared by Mikolov; <unk> stays."""
    text = text.replace(" '", "'").replace(" \n", "\n").replace("\n ", "\n").replace(" n't", "n't")
    # The space before a number is lost, as in Megatron-LM.
    return text.replace(" N ", "1 ").replace("$ 1", "$1").replace("# 1", "#1")


def cbt(text: str) -> str:
    """The Children's Book Test."""
    text = text.replace(" '", "'").replace(" \n", "\n").replace("\n ", "\n").replace(" n't", "n't")
    text = text.replace("`` ", '"').replace("''", '"')
    for mark in (":", ";", "!", "?", ",", "."):
        text = text.replace(f" {mark}", mark)
    return text


def lambada(text: str) -> str:
    """OpenAI's published rule for LAMBADA: straight quotes, and one newline in front (github.com/openai/gpt-2 #131)."""
    for curly, straight in (("\u201c", '"'), ("\u201d", '"'), ("''", '"'), ("``", '"')):
        text = text.replace(curly, straight)
    return "\n" + text.strip()


def words(text: str) -> int:
    """Words between white space."""
    return len(text.split())


def words_and_lines(text: str) -> int:
    """Words between white space and the line ends between them, which count as a word each, as <eos> does.

    245,566 in the test file of WikiText-103, Megatron-LM's number; the 245,569 of its authors also count the line ends
    before the first word and after the last.
    """
    return words(text) + text.strip().count("\n")


class Convention(NamedTuple):
    """How a corpus is scored: the text that the model sees, and the units of the original that it is divided by."""

    detokenize: Callable[[str], str]
    count: Callable[[str], int]


CONVENTIONS = {
    "none": Convention(str, words),  # text8 and enwik8 too, whose units are characters and bytes
    "wikitext": Convention(wikitext, words_and_lines),
    "ptb": Convention(ptb, words_and_lines),
    "cbt": Convention(cbt, words),
    "lambada": Convention(lambada, words),
}
