"""Reading prompts from files, and writing the samples of a scripted model."""

import json
from typing import NamedTuple

import pytest

from estimator.errors import UserError
from estimator.generation import prompt_files
from estimator.generation.completion import PredictionConfig
from estimator.generation.prompt_files import Prompt
from estimator.tokenization.tokenizer import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()


class Chunk(NamedTuple):
    tokens: list[list[int]]
    logprobs: list[list[float]]


def complete(prompts, **values):
    """Returns samples and batch sizes. Row n is completed with " n"; larger n have a higher likelihood."""
    sizes = []

    def generate(rows, *, stopped, first_row):
        sizes.append(len(rows))
        texts = [f" {first_row + i} END no" for i in range(len(rows))]
        tokens = [TOKENIZER.encode(text) for text in texts]
        yield Chunk(tokens, [[-1.0 / (first_row + i + 1)] * len(ids) for i, ids in enumerate(tokens)])

    encoded = [TOKENIZER.encode(prompt) for prompt in prompts]
    config = PredictionConfig(stop=[" END"], **values)
    return list(prompt_files.complete(encoded, TOKENIZER, generate, config)), sizes


def texts(results):
    return [[sample.text for sample in samples] for samples in results]


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_samples_do_not_depend_on_the_batch_size(size):
    results, sizes = complete(["a", "bb", "c"], num_samples=2, length=5, predict_batch_size=size)
    assert texts(results) == [[" 0", " 1"], [" 2", " 3"], [" 4", " 5"]]
    assert max(sizes) <= max(size, 16)


def test_samples_that_fill_the_context_share_a_batch_only_with_equally_long_prompts():
    results, sizes = complete(["aa", "bb", "c", "dd"], predict_batch_size=10)
    assert texts(results) == [[" 0"], [" 1"], [" 2"], [" 3"]]
    assert sizes == [2, 1, 1]


def test_of_the_candidates_the_likeliest_is_kept():
    results, _ = complete(["a", "b"], best_of=3, length=5)
    assert texts(results) == [[" 2"], [" 5"]]


def test_tokens_and_log_probabilities_end_with_the_text():
    ((sample,),), _ = complete(["a"], length=5)
    assert TOKENIZER.decode(sample.tokens) == sample.text == " 0"
    assert sample.logprobs == [-1.0] * len(sample.tokens)


def test_lines_are_prompts_and_objects_keep_their_other_fields(tmp_path):
    path = tmp_path / "prompts"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntwo \nthree")
    assert [prompt.text for prompt in prompt_files.read(str(path), is_json=False)] == ["one", "two ", "three"]
    path.write_text('{"id": 1, "prompt": "caf\u00e9\\n"}\n')
    (prompt,) = prompt_files.read(str(path), is_json=True)
    assert prompt == Prompt("caf\u00e9\n", {"id": 1, "prompt": "caf\u00e9\n"})
    sample = prompt_files.Sample(" x", [1], [-0.5])
    line = prompt_files.output_line(prompt, [sample], with_logprobs=True)
    completions = [{"text": " x", "tokens": [1], "logprobs": [-0.5]}]
    assert json.loads(line) == {"id": 1, "prompt": "caf\u00e9\n", "completions": completions}
    path.write_text(r'{"prompt": "\ud800", "\udfff": [1]}')  # unpaired surrogates
    (prompt,) = prompt_files.read(str(path), is_json=True)
    line = prompt_files.output_line(prompt, [sample], with_logprobs=False)
    assert json.loads(line.encode()) == {"\ufffd": [1], "prompt": "\ufffd", "completions": [" x"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n\n", "holds no prompts"),
        ('{"prompt": "a"}\n{"text": "b"}\n', 'line 2: no object with a string "prompt"'),
        ('{"prompt": "a"\n', "line 1, column 15: not JSON"),
        ('{"prompt": "a"}\n{"id": 8 "prompt": "b"}\n', r"line 2, column 10: not JSON \(Expecting ',' delimiter\);"),
        ('{"prompt": 3}\n', "line 1: no object"),
        ('{"prompt": "a", "x": NaN}\n', "line 1: not JSON"),
        ('{"prompt": "a", "x": 1e999}\n', "line 1: not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        prompt_files.read(str(path), is_json=True)


def test_lines_that_are_all_json_objects_are_told_from_text():
    objects = [Prompt('{"prompt": "a"}', {}), Prompt("{}", {})]
    assert prompt_files.are_objects(objects)
    for other in ("a", "1", '["a"]', '{"a": 1} b', "{" * 10_000):
        assert not prompt_files.are_objects([*objects, Prompt(other, {})])
