"""A chat template for a small tokenizer, and one conversation in all forms that are read."""

from estimator.corpus.chat_template import Template, extended
from estimator.tokenization.tokenizer import byte_level_tokenizer

TOKENIZER = extended(byte_level_tokenizer())


TEMPLATE = Template(TOKENIZER, source="the bytes")

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
FORMS = {
    "openai": {"messages": HI},
    "ultrachat": {"prompt": "Hi", "prompt_id": "1", "messages": HI},
    "sharegpt": {"id": "1", "conversations": SHAREGPT},
    "nanochat": HI,
    "pairs": {"conversation": [{"human": "Hi", "assistant": "Ho"}]},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Ho"},
    "dolly": {"instruction": "Hi", "context": "", "response": "Ho", "category": "open_qa"},
    "completion": {"prompt": "Hi", "completion": "Ho"},
    "prompt of messages": {"prompt": HI[:1], "completion": HI[1:]},
    "preference of messages": {"prompt": HI[:1], "chosen": HI[1:], "rejected": HI[1:]},
    "preference of conversations": {"chosen": HI, "rejected": HI},
    "preference": {"prompt": "Hi", "chosen": "Ho", "rejected": "No"},
    "hh-rlhf": {"chosen": "\n\nHuman: Hi\n\nAssistant: Ho", "rejected": "\n\nHuman: Hi\n\nAssistant: No"},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, HI[1]]},
    "openassistant": {
        "message_tree_id": "1",
        "prompt": {
            "role": "prompter",
            "text": "Hi",
            "replies": [
                {"role": "assistant", "text": "No", "rank": 1, "replies": []},
                {"role": "assistant", "text": "Ho", "rank": 0, "replies": []},
            ],
        },
    },
}
