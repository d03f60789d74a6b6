"""Exported vocabularies: transformers and llama.cpp produce our ids, templates, and end tokens, or export fails."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece as sentencepiece_library
from helpers.texts import AWKWARD, random_texts
from helpers.tiny_gpt2 import random_params, tiny

from estimator.corpus.chat_files import Message
from estimator.corpus.chat_template import Template, extended
from estimator.errors import UserError
from estimator.tokenization import vocab_files
from estimator.tokenization.tokenizer import ByteLevelBPE, Tokenizer, load
from estimator.tokenization.train_bpe import train_byte_bpe
from estimator.tokenization.train_sentencepiece import train_sentencepiece
from models.gpt2.convert import gguf, hf, readers

LINES = (
    "the low tower is lower than the slow flower; 12 don't\n \u65e5\u672c\u8a9e\u306e\u6587\u7ae0 "
    "if x<0x41> \u03a3\u03b1\u03a3 \u0130 "
)
KINDS = ("bpe", "added", "chat", "wordpiece", "sentencepiece", "unigram", "unigram_chat")
MESSAGES = [("system", " Be brief. "), ("user", "the low\n tower"), ("assistant", "slow"), ("user", "flower")]


def made(kind: str, folder: Path) -> Tokenizer:
    """Creates a vocabulary of the given kind in `folder`."""
    if kind == "wordpiece":
        words = ["<unk>", "the", "##er", "low", "tow", ".", ",", "<", "|", ">", *map(chr, range(97, 123)), "\u03c2"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_text("\n".join([*words, *(f"##{word}" for word in words[10:])]), encoding="utf-8")
        return load(folder)
    if kind in ("sentencepiece", "unigram", "unigram_chat"):
        model_type = "bpe" if kind == "sentencepiece" else "unigram"
        special = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"] if kind == "unigram_chat" else []
        return train_sentencepiece(
            [LINES] * 20, n_vocab=400, out=folder, model_type=model_type, special_tokens=special, user_symbols=["wer"]
        )
    tokenizer = train_byte_bpe([LINES] * 20, n_vocab=300, out=folder)
    if kind == "chat":
        tokenizer = extended(tokenizer)
    if kind == "added":
        contents = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        contents["added_tokens"] += [
            vocab_files.added_token("tower", 300, special=False) | {"lstrip": True},
            vocab_files.added_token("the", contents["model"]["vocab"].get("the", 301), special=False),
            vocab_files.added_token("<pad>", 302),
        ]
        ends = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [tokenizer.end_of_text], "tokens": ["<|endoftext|>"]}}
        text, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
        contents["post_processor"] = {
            "type": "TemplateProcessing", "single": [text, end], "pair": [text, text], "special_tokens": ends
        }  # fmt: skip
        tokenizer = ByteLevelBPE(vocab_files.checked(contents, source="test"), source="test")
    tokenizer.save(folder)
    return tokenizer


def fuzz(tokenizer: Tokenizer, count: int = 3000) -> list[str]:
    """Returns random Unicode texts, and mixtures of LINES, unusual characters, and special tokens."""
    draw = random.Random(0)
    signs = [*LINES, *tokenizer.special_tokens, "<0x41>", "\u2581", "  ", "\x85", "\n\n", "tower"]
    mixed = ["".join(draw.choices(signs, k=draw.randrange(40))) for _ in range(count // 2)]
    return [*AWKWARD, *random_texts(count // 2 - len(AWKWARD)), *mixed]


def export(kind: str, folder: Path) -> Tokenizer:
    tokenizer = made(kind, folder / "encoder")
    config = tiny(n_vocab=tokenizer.n_vocab)
    hf.write(folder / "hf", random_params(config), config, encoder=folder / "encoder", dtype="f32")
    return tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_can_begin_with_an_export_and_its_vocabulary(kind, tmp_path):
    tokenizer = export(kind, tmp_path)
    found = readers.vocabulary(str(tmp_path / "hf"))
    assert found == tmp_path / "hf"
    again = load(found)
    assert (again.digest, again.end_of_text) == (tokenizer.digest, tokenizer.end_of_text)
    # Where the next export has a vocabulary of another kind, nothing of this one stays.
    export("bpe" if kind == "wordpiece" else "wordpiece", tmp_path / "other")
    config = tiny(n_vocab=load(tmp_path / "other" / "encoder").n_vocab)
    hf.write(tmp_path / "hf", random_params(config), config, encoder=tmp_path / "other" / "encoder", dtype="f32")
    assert load(tmp_path / "hf").digest == load(tmp_path / "other" / "encoder").digest


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_gives_our_ids_with_ends_padding_and_limits(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    tokenizer = export(kind, tmp_path)
    other = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "hf"))
    texts = fuzz(tokenizer)
    assert other(texts)["input_ids"] == [tokenizer.encode(text, special=True) for text in texts]
    pad = tokenizer.special_tokens.get("<pad>", tokenizer.end_of_text)
    assert (other.bos_token_id, other.eos_token_id, other.pad_token_id) == (
        tokenizer.end_of_text,
        tokenizer.end_of_text,
        pad,
    )
    assert other.model_max_length == 16
    assert len(other(["low " * 99], truncation=True)["input_ids"][0]) == 16
    assert len(other(["low", "the low tower"], padding=True)["input_ids"][0]) > 1
    if kind != "wordpiece":
        plain = "the low\n  flower's \u65e5\u672c"
        assert other.decode(tokenizer.encode(plain)) == plain
    assert (other.chat_template is not None) == kind.endswith("chat")


@pytest.mark.parametrize("kind", ["chat", "unigram_chat"])
def test_transformers_writes_conversations_as_the_template_does(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    tokenizer = export(kind, tmp_path)
    other = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "hf"))
    template = Template(tokenizer, source="test")
    messages = [{"role": role, "content": text} for role, text in MESSAGES]
    ids = other.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    conversation = template.encode([Message(role, text) for role, text in MESSAGES]).tolist()
    assert ids == [template.end_of_text, *conversation, template.headers["assistant"]]
    generation = transformers.GenerationConfig.from_pretrained(str(tmp_path / "hf"))
    assert generation.eos_token_id == [template.end, template.end_of_text]
    assert (generation.top_k, generation.do_sample) == (0, True)
    with pytest.raises(Exception, match="roles are system, user and assistant"):
        other.apply_chat_template([{"role": "tool", "content": "x"}])
    with pytest.raises(Exception, match="content is one text"):
        other.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": "x"}]}])


def test_gpt2s_own_vocabulary_is_exact_in_transformers(gpt2_encoder, tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    tokenizer = load(gpt2_encoder)
    config = tiny(n_vocab=tokenizer.n_vocab, n_embd=4, n_head=1, n_layer=1)
    hf.write(tmp_path / "hf", random_params(config), config, encoder=gpt2_encoder, dtype="f32")
    other = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "hf"))
    texts = fuzz(tokenizer)
    assert other(texts)["input_ids"] == [tokenizer.encode(text, special=True) for text in texts]


def test_gpt2s_own_vocabulary_is_exact_in_llama_cpp(gpt2_encoder, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="compares with llama-cpp-python")
    tokenizer = load(gpt2_encoder)
    file = write_gguf(tmp_path, tokenizer, n_embd=8, n_head=1, n_layer=1)
    llama = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    for text in fuzz(tokenizer):
        if "\0" not in text:
            assert llama.tokenize(text.encode(), special=True) == tokenizer.encode(text, special=True), repr(text)


def test_an_export_replaces_an_earlier_one_whole(tmp_path):
    export("chat", tmp_path)
    config = tiny(n_vocab=310)
    hf.write(tmp_path / "hf", random_params(config), config, encoder=None, dtype="f32")
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "encoder"}, "temporary files are left"
    with pytest.raises(UserError, match=r"encoder has a tokenizer\.json of something else"):
        hf.write(tmp_path / "encoder", random_params(config), config, encoder=None, dtype="f32")


def test_foreign_sentencepiece_models_are_refused_with_the_reason(tmp_path):
    sentencepiece_library.SentencePieceTrainer.train(
        sentence_iterator=iter([LINES] * 20), model_prefix=str(tmp_path / "sp"), vocab_size=40, minloglevel=2
    )
    config = tiny(n_vocab=40)
    with pytest.raises(UserError, match=r"rewrites characters, puts a blank before every text.*--no_tokenizer"):
        hf.write(tmp_path / "hf", random_params(config), config, encoder=tmp_path / "sp.model", dtype="f32")
    assert not (tmp_path / "hf").exists()


def write_gguf(folder: Path, tokenizer: Tokenizer, **changes) -> Path:
    pytest.importorskip("gguf", reason="needs the package gguf")
    tokenizer.save(folder / "encoder")
    config = tiny(n_vocab=tokenizer.n_vocab + 3, **changes)
    file = folder / "m.gguf"
    gguf.write(file, random_params(config), config, encoder=folder / "encoder", dtype="f32", name="test")
    return file


@pytest.mark.parametrize("kind", ["bpe", "chat", "sentencepiece"])
def test_llama_cpp_gives_our_ids_and_ends(kind, tmp_path):
    file = write_gguf(tmp_path, tokenizer := made(kind, tmp_path / "encoder"))
    llama_cpp = pytest.importorskip("llama_cpp", reason="compares with llama-cpp-python")
    llama = llama_cpp.Llama(str(file), vocab_only=True, verbose=False)
    for text in fuzz(tokenizer):
        if "\u2581" not in text and "\0" not in text:
            expected = tokenizer.encode(text, special=True)
            assert llama.tokenize(text.encode(), add_bos=True, special=True) == expected, repr(text)
    assert llama.token_eos() == llama.token_bos() == tokenizer.end_of_text
    if kind == "chat":
        end = tokenizer.special_tokens["<|end|>"]
        assert llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(llama.model), end)
        formatter = llama_cpp.llama_chat_format.Jinja2ChatFormatter(
            llama.metadata["tokenizer.chat_template"], eos_token="<|endoftext|>", bos_token="<|endoftext|>"
        )
        prompt = formatter(messages=[{"role": role, "content": text} for role, text in MESSAGES]).prompt
        template = Template(tokenizer, source="test")
        ids = template.encode([Message(role, text) for role, text in MESSAGES]).tolist()
        expected = [template.end_of_text, *ids, template.headers["assistant"]]
        assert llama.tokenize(prompt.encode(), add_bos=False, special=True) == expected


def test_gguf_contexts_are_multiples_of_256_and_ends_are_declared(tmp_path):
    library = pytest.importorskip("gguf", reason="needs the package gguf")
    file = write_gguf(tmp_path, made("bpe", tmp_path / "encoder"))
    reader = library.GGUFReader(file)
    positions = next(tensor.data for tensor in reader.tensors if tensor.name == "position_embd.weight")
    assert reader.fields["gpt2.context_length"].contents() == 256
    assert positions.shape == (256, 32)
    assert np.any(positions[:16])
    assert not np.any(positions[16:])


@pytest.mark.parametrize("name", ["</s>", "<|end_of_text|>", "<endoftext>"])
def test_gguf_declares_the_end_whatever_its_name(tmp_path, name):
    library = pytest.importorskip("gguf", reason="needs the package gguf")
    contents = vocab_files.definition(vocab=vocab_files.BYTE_VOCAB, merges=[])
    contents["added_tokens"] = [vocab_files.added_token(name, 256), vocab_files.added_token("ab", 257, special=False)]
    contents["model"]["vocab"] = vocab_files.BYTE_VOCAB | {name: 256, "ab": 257}
    reader = library.GGUFReader(write_gguf(tmp_path, ByteLevelBPE(contents, source="test")))
    for kind in ("bos", "eos"):
        assert reader.fields[f"tokenizer.ggml.{kind}_token_id"].contents() == 256
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    assert types[256:259] == [library.TokenType.CONTROL, library.TokenType.USER_DEFINED, library.TokenType.UNUSED]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"ignore_merges": True}}, "ignore_merges"),
        ({"added": {"lstrip": True}}, "'ab' has lstrip"),
        ({"added": {"rstrip": True}}, "'ab' has rstrip"),
        ({"added": {"single_word": True}}, "'ab' has single_word"),
        ({"added": {"content": "|>ab"}}, "can overlap"),
        ({"contents": {"normalizer": {"type": "NFC"}}}, "normalizer"),
        ({"contents": {"pre_tokenizer": {"type": "Digits", "individual_digits": True}}}, "cuts text"),
        ({"end": False}, "no end-of-text"),
    ],
)
def test_gguf_refuses_what_llama_cpp_reads_otherwise(tmp_path, change, reason):
    contents = vocab_files.definition(vocab=vocab_files.BYTE_VOCAB, merges=[])
    contents["added_tokens"] += [vocab_files.added_token("ab", 257, special=False) | change.get("added", {})]
    contents["model"] |= change.get("model", {})
    contents |= change.get("contents", {})
    if not change.get("end", True):
        contents["added_tokens"] = []
        contents["model"]["vocab"] = vocab_files.BYTE_VOCAB
    with pytest.raises(UserError, match=reason):
        write_gguf(tmp_path, ByteLevelBPE(contents, source="test"))
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.parametrize(("kind", "reason"), [("wordpiece", "WordPiece as BERT"), ("unigram", "unigram vocabulary")])
def test_gguf_names_the_kinds_that_llama_cpp_lacks(tmp_path, kind, reason):
    with pytest.raises(UserError, match=f"{reason}.*--to hf"):
        write_gguf(tmp_path, made(kind, tmp_path / "encoder"))
