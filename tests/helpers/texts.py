"""Edge-case texts and random texts."""

import random

END = "<|endoftext|>"


AWKWARD = [
    "",
    " ",
    "plain words, and  two spaces",
    f"a{END}b {END}",
    "tabs\t\r\n\n\nends ",
    "na\u00efve \u65e5\u672c\u8a9e \U0001f469\u200d\U0001f467 e\u0301",
    "\x00\x07\x7f\ufeff\uffff\U0010ffff",
]


def random_texts(count: int) -> list[str]:
    """Returns random texts from all of Unicode, including words and spaces."""
    random_numbers = random.Random(0)
    alphabets = [range(0x80), range(0x20, 0x300), range(0x3000, 0xD800), range(0xE000, 0x110000)]

    def character() -> str:
        return chr(random_numbers.choice(random_numbers.choice(alphabets)))

    return ["".join(character() for _ in range(random_numbers.randrange(60))) for _ in range(count)]


def random_prose(words: int) -> str:
    """Returns sentences from a small vocabulary whose first words are the most frequent ones."""
    draw = random.Random(0)
    vocabulary = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(300)]
    chosen = [vocabulary[int(len(vocabulary) ** draw.random()) - 1] for _ in range(words)]
    for end in range(9, words, 10):
        chosen[end] += "."
        chosen[end - 9] = chosen[end - 9].capitalize()
    return " ".join(chosen)
