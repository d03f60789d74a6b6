"""A GPT-2 with random weights, created by transformers, and a configuration file that starts from it."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from estimator.tokenization.tokenizer import Tokenizer
from estimator.tokenization.train_bpe import train_byte_bpe
from helpers.texts import random_prose

N_CTX = 64


class RandomGpt2(NamedTuple):
    """config: the configuration file. exported: the directory that transformers loads."""

    config: Path
    exported: Path
    tokenizer: Tokenizer

    def logprobs(self, rows: np.ndarray) -> np.ndarray:
        """Returns transformers' log-probabilities of all next tokens: int [rows, n] -> float32 [rows, n, vocab]."""
        import torch
        import transformers

        model = transformers.GPT2LMHeadModel.from_pretrained(self.exported).eval()
        with torch.no_grad():
            logits = [model(torch.tensor(part)).logits for part in np.array_split(rows, -(-len(rows) // 128))]
        return torch.log_softmax(torch.cat(logits), dim=-1).numpy()


def make(folder: Path) -> RandomGpt2:
    """Creates the model with ten times GPT-2's initial scale, so that positions and contexts matter."""
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    tokenizer = train_byte_bpe([random_prose(4000)], n_vocab=400, out=folder / "hf")
    torch.manual_seed(0)
    sizes = {"n_positions": N_CTX, "n_embd": 32, "n_layer": 2, "n_head": 2}
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.end_of_text)
    config = transformers.GPT2Config(vocab_size=tokenizer.n_vocab, initializer_range=0.2, **sizes, **ends)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder / "hf")
    values = {"n_ctx": N_CTX, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_vocab": tokenizer.n_vocab}
    paths = {"init_from": folder / "hf", "encoder_path": folder / "hf", "model_path": folder / "run"}
    values |= {name: str(path) for name, path in paths.items()}
    values |= {"input": "text", "data_path": str(folder / "*.txt"), "train_batch_size": 8, "max_steps": 4}
    (folder / "x.json").write_text(json.dumps(values))
    return RandomGpt2(folder / "x.json", folder / "hf", tokenizer)
