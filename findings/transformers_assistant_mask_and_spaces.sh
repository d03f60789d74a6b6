#!/usr/bin/env bash
# transformers 5.23.0: a space at the edge of an answer puts the user's turns into the assistant mask, or later answers out.
#
# Expected: apply_chat_template(return_assistant_tokens_mask=True) marks the tokens of what the template has between
#   {% generation %} and {% endgeneration %}: each answer, and nothing else.
# Observed: the mask is made from char_to_token of the first and the last character. Where a byte-level tokenizer has the
#   post-processor ByteLevel(trim_offsets=True), its default and Llama 3's, the space of " yes" belongs to no token:
#   * an answer that ends with a space marks everything up to the end of the conversation, users' turns included;
#   * an answer that begins with one is not marked, and no later answer is. Truncation from the left does this as well,
#     with any tokenizer, as the first answer is cut off.
#   With trim_offsets=False, as in GPT-2's own file, spaces do no harm. Nothing is reported.
#   huggingface/transformers#47325 describes the first of the two; it was closed, and this release has both.
# Why it matters: fine-tuning on answers only, as of TRL with assistant_only_loss, trains a GPT-2 to write the user's part,
#   or leaves out most of a conversation. Spaces at the edges come from scraped chats and cut completions. Strip the
#   contents in the template.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6
HF_HUB_OFFLINE=1 HF_HOME="$folder/hub" "$folder/venv/bin/python" - <<'PY' 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
import tokenizers
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
TEMPLATE = (
    "{% for turn in messages %}<{{ turn.role }}>{% if turn.role == 'assistant' %}{% generation %}{{ turn.content }}"
    "{% endgeneration %}{% else %}{{ turn.content }}{% endif %}{% endfor %}"
)
vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def marked(first: str, *, trims: bool, **options: object) -> str:
    """The conversation with the marked tokens in brackets, where the first answer is this one."""
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trims)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, truncation_side="left")
    turns = [("user", "Is it?"), ("assistant", first), ("user", "Why?"), ("assistant", "Sun."), ("user", "OK")]
    encoded = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], chat_template=TEMPLATE, tokenize=True,
        return_dict=True, return_assistant_tokens_mask=True, **options,
    )
    text = ""
    for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
        text += f"[{tokenizer.decode([token])}]" if mask else tokenizer.decode([token])
    text = text.replace("][", "")
    print(f"first answer {first!r}, trim_offsets={trims}{', ' if options else ''}{options or ''}: {text}")
    return text


right = "<user>Is it?<assistant>[{}]<user>Why?<assistant>[Sun.]<user>OK"
for answer in ("Yes.", "Yes. ", " Yes."):
    assert marked(answer, trims=False) == right.format(answer)
assert marked("Yes.", trims=True) == right.format("Yes.")
end, start = marked("Yes. ", trims=True), marked(" Yes.", trims=True)
assert end == "<user>Is it?<assistant>[Yes. <user>Why?<assistant>Sun.<user>OK]", "the behavior has changed"
assert start == "<user>Is it?<assistant> Yes.<user>Why?<assistant>Sun.<user>OK", "the behavior has changed"
cut = marked("Yes.", trims=False, truncation=True, max_length=30)
assert cut == "er>Why?<assistant>Sun.<user>OK", "the behavior has changed"
PY
