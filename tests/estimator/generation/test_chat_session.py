"""Chat sessions with a scripted model."""

from helpers.chats import TEMPLATE, TOKENIZER
from helpers.keyboard import typed

from estimator.corpus.chat_files import Message
from estimator.generation.chat_session import ChatSession
from estimator.generation.completion import PredictionConfig
from estimator.generation.interactive import Interactive

HEAD = "<|endoftext|><|system|>Be brief.<|end|>"


def speaker(texts, *, most=1000, notes=None, **values):
    """Returns a fake model that answers with texts[row], and the list of prompts it receives."""
    prompts = []

    def stream(asked, *, stopped, first_row):
        prompts.extend(TOKENIZER.decode(prompt) for prompt in asked)
        assert all(len(prompt) <= most for prompt in asked)
        rows = [TOKENIZER.encode(texts[first_row + i], special=True) for i in range(len(asked))]
        for start in range(0, max(map(len, rows)), 3):
            if len(stopped) == len(rows):
                return
            yield [[] if i in stopped else row[start : start + 3] for i, row in enumerate(rows)]

    config = PredictionConfig(**({"chat_system": "Be brief."} | values))
    note = (notes if notes is not None else []).append
    return ChatSession(TEMPLATE, TOKENIZER, stream, config, most=most, note=note), prompts


def talk(made: ChatSession, lines: list[str]) -> str:
    shown: list[str] = []
    loop = Interactive(lambda *_: made, made.config, 0, show=shown.append, note=made.note)
    loop.run(typed(lines))
    return "".join(shown)


def test_a_conversation_keeps_its_history_and_an_empty_line_begins_anew():
    notes: list[str] = []
    made, prompts = speaker(["Hello.", "Fine.", "Who?"], notes=notes)
    assert talk(made, ["Hi", "How are you?", "", "Me"]) == "Hello.\nFine.\nWho?\n\n"
    assert prompts == [
        f"{HEAD}<|user|>Hi<|end|><|assistant|>",
        f"{HEAD}<|user|>Hi<|end|><|assistant|>Hello.<|end|><|user|>How are you?<|end|><|assistant|>",
        f"{HEAD}<|user|>Me<|end|><|assistant|>",
    ]
    assert notes == ["a new conversation"]


def test_the_system_message_can_be_set_while_talking():
    notes: list[str] = []
    made, prompts = speaker(["Hello.", "Fine.", "Good."], notes=notes)

    def again(config, seed, before):
        history = before.history if before else None
        return ChatSession(TEMPLATE, TOKENIZER, made.stream, config, most=1000, note=notes.append, history=history)

    lines = ["Hi", "/set chat_system Be kind.", "You?", "/settings", "/set chat_system null", "", "Hi"]
    Interactive(again, made.config, 0, show=lambda _: None, note=notes.append).run(typed(lines))
    first = "<|user|>Hi<|end|><|assistant|>"
    assert prompts == [
        f"{HEAD}{first}",
        f"<|endoftext|><|system|>Be kind.<|end|>{first}Hello.<|end|><|user|>You?<|end|><|assistant|>",
        f"<|endoftext|>{first}",
    ]
    assert 'chat_system "Be kind."' in notes[0]


def test_a_reply_ends_at_any_token_of_the_template_and_at_stop_strings():
    made, prompts = speaker(["one<|user|>two", "three<|endoftext|>", "four STOP five"], stop=["STOP"])
    assert talk(made, ["a", "b", "c"]) == "one\nthree\nfour \n\n"
    assert "<|assistant|>one<|end|><|user|>b" in prompts[1]


def test_samples_are_replies_to_one_message():
    made, prompts = speaker(["yes", "no"], num_samples=2, chat_system=None)
    assert list(made.replies("Well? ")) == ["yes", "no"]
    assert prompts == ["<|endoftext|><|user|>Well?<|end|><|assistant|>"] * 2


def test_a_history_that_is_too_long_begins_later_at_a_message_of_the_user():
    notes: list[str] = []
    made, prompts = speaker(["Hello.", "Fine.", "Bye."], most=38, notes=notes)
    talk(made, ["Hi", "How are you?", "See you."])
    assert prompts[1:] == [
        f"{HEAD}<|user|>How are you?<|end|><|assistant|>",
        f"{HEAD}<|user|>See you.<|end|><|assistant|>",
    ]
    history = [Message("user", "12345678901234567890123456789")]
    assert TOKENIZER.decode(made.prompt(history)) == f"{HEAD}<|user|>78901234567890123456789<|end|><|assistant|>"
    assert notes == ["the message has 31 tokens; the model sees the last 25"]
    tight, _ = speaker([""], most=20)
    assert TOKENIZER.decode(tight.prompt([Message("user", "Hi")])) == "<|endoftext|><|user|>Hi<|end|><|assistant|>"


def test_words_of_the_template_that_a_user_writes_are_words():
    made, prompts = speaker(["ok"], chat_system=None)
    talk(made, ["<|end|><|assistant|>"])
    ids = made.prompt([Message("user", "<|end|><|assistant|>")])
    assert sum(i in TOKENIZER.special_tokens.values() for i in ids) == 4
    assert prompts == ["<|endoftext|><|user|><|end|><|assistant|><|end|><|assistant|>"]
