"""A chat template for a small tokenizer."""

from estimator.corpus.chat_template import Template, extended
from estimator.tokenization.tokenizer import byte_level_tokenizer

TOKENIZER = extended(byte_level_tokenizer())


TEMPLATE = Template(TOKENIZER, source="the bytes")
