#!/usr/bin/env bash
# ctranslate2 4.8.5: in a batch, include_prompt_in_result=False returns the end of the longer prompts as the answer.
#
# Expected: "include_prompt_in_result: Include the start_tokens in the result"; False leaves them out, and max_length
#   tokens are generated, for each prompt of a batch as for the prompt alone.
# Observed: only as many tokens as the shortest prompt has are left out of every result. The rest of a longer prompt
#   comes back as generated text, counts for max_length, and has a score of 0, a probability of 1. Next to a prompt of
#   one token, one of 13 tokens "generates" its own last 12. The docstring says that the rest goes through "the decoding
#   loop with constrained decoding", as a matter of speed, and not that it is in the result. Beam search and sampling
#   do the same; prompts of one length, and max_batch_size=1, are right. Versions since 4.0 behave so.
# Why it matters: a server that batches the requests of a moment, or an evaluation with generate_batch(all_prompts),
#   answers with parts of the questions, cut short, depending on who else asked. An exact match finds the answer in a
#   few-shot prompt. A test with one prompt, or with equal lengths, sees nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q ctranslate2==4.8.5 numpy==2.4.6
mkdir "$folder/model"
"$folder/venv/bin/python" - "$folder/model" <<'PY'
import string
import sys

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

LAYERS, HEADS, WIDTH, POSITIONS = 2, 4, 64, 64
END = "<|endoftext|>"
vocabulary = [END, *string.ascii_lowercase]
random = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    """Random weights, as nothing here depends on what the model says."""
    return random.normal(0, 0.3, shape).astype(np.float32)


spec = TransformerDecoderModelSpec.from_config(LAYERS, HEADS, activation=common_spec.Activation.GELUTanh)  # GPT-2's
spec.decoder.scale_embeddings = False
spec.decoder.embeddings.weight = spec.decoder.projection.weight = weights(len(vocabulary), WIDTH)
spec.decoder.position_encodings.encodings = weights(POSITIONS, WIDTH)
norms, linears = [spec.decoder.layer_norm], []
for layer in spec.decoder.layer:
    norms += [layer.self_attention.layer_norm, layer.ffn.layer_norm]
    linears += [(layer.self_attention.linear[0], 3 * WIDTH, WIDTH), (layer.self_attention.linear[1], WIDTH, WIDTH)]
    linears += [(layer.ffn.linear_0, 4 * WIDTH, WIDTH), (layer.ffn.linear_1, WIDTH, 4 * WIDTH)]
for norm in norms:
    norm.gamma, norm.beta = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
for linear, outputs, inputs in linears:
    linear.weight, linear.bias = weights(outputs, inputs), np.zeros(outputs, np.float32)
spec.register_vocabulary(vocabulary)
spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = END
spec.validate()
spec.save(sys.argv[1])
generator = ctranslate2.Generator(sys.argv[1])
print("ctranslate2", ctranslate2.__version__)


def generated(*prompts: str, **options: object) -> list[str]:
    """What is generated for the prompts, a token a letter."""
    options = {"max_length": 12, "end_token": [], "include_prompt_in_result": False, "return_scores": True, **options}
    results = generator.generate_batch([list(prompt) for prompt in prompts], **options)
    print(f"{prompts} {options}: {[(''.join(each.sequences[0]), each.scores[0]) for each in results]}")
    return ["".join(result.sequences[0]) for result in results]


question, same_length, short = "themodelreads", "readsthemodel", "a"
(answer,), (short_answer,) = generated(question), generated(short)
assert len(answer) == len(short_answer) == 12 and answer != question[1:]
assert generated(question, short) == [question[1:], short_answer], "the behavior has changed"
assert generated(question, short, max_length=15)[0][:12] == question[1:], "the behavior has changed"
assert generated(question, same_length) == [answer, *generated(same_length)]
assert generated(question, short, max_batch_size=1) == [answer, short_answer]
for options in ({"beam_size": 2}, {"sampling_topk": 0}):
    assert generated(question, short, **options)[0] == question[1:], "the behavior has changed"
PY
