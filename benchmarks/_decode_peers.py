"""Peers of the decode benchmark that need an environment of their own: OpenVINO GenAI and CTranslate2.

They run in the Python that `--peer_python` names, with the weights that ours writes for transformers.
"""

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import _workers
from benchmarks._decode_workers import HUGGING_FACE, Side


def write_tokenizer(folder: Path, n_vocab: int) -> None:
    """A byte-level vocabulary with a name for every id: both converters want one, and nothing is encoded with it."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in kept] + [chr(256 + i) for i in range(256 - len(kept))]
    words = [*symbols, *(f"<{i}>" for i in range(len(symbols), n_vocab - 1)), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))


class _Converted(Side):
    def memory(self) -> int:
        return _workers.peak_resident()

    def _converted(self, variant: str, command: list[str]) -> Path:
        """The weights as this peer reads them; its converter is in the folder of its Python."""
        source, target = self.folder / HUGGING_FACE, self.folder / f"{type(self).__name__}-{variant}"
        if not target.exists():
            write_tokenizer(source, self.size.n_vocab)
            command = [str(Path(sys.executable).parent / command[0]), *command[1:]]
            if not Path(command[0]).exists():
                raise RuntimeError(f"no {command[0]}; docs/numbers.md says what to install")
            places = {"SOURCE": str(source), "TARGET": str(target)}
            done = subprocess.run([places.get(part, part) for part in command], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "not converted")
        return target

    def run(self, model: Any, prompts: list[list[int]], length: int) -> list[list[int]]:
        raise NotImplementedError

    def generate(self, variant: str, batch: int) -> dict[str, Any]:
        model, prompts = self.ready[variant], self.prompts(batch).tolist()
        start = time.perf_counter()
        self.run(model, prompts, 1)
        first = time.perf_counter() - start
        rows = self.run(model, prompts, self.length)
        assert {len(row) for row in rows} == {self.length}
        return {"seconds": time.perf_counter() - start - first, "first": first, "tokens": rows[0]}


class OpenVino(_Converted):
    """OpenVINO GenAI's continuous batching; int8 are its weights; its products are as it chooses."""

    def variants(self) -> list[str]:
        return ["f32", "bf16", "int8"]

    def load(self, variant: str) -> Any:
        import openvino_genai

        weights = "int8" if variant == "int8" else "fp32"
        export = ["optimum-cli", "export", "openvino", "--model", "SOURCE", "--task", "text-generation-with-past"]
        folder = self._converted(weights, [*export, "--weight-format", weights, "TARGET"])
        schedule = openvino_genai.SchedulerConfig()
        schedule.cache_size, schedule.enable_prefix_caching, schedule.max_num_batched_tokens = 2, False, 2048
        hint = {"INFERENCE_PRECISION_HINT": "f32" if variant == "f32" else "bf16"}
        with contextlib.suppress(RuntimeError):  # a processor without bfloat16 refuses the hint
            return openvino_genai.ContinuousBatchingPipeline(str(folder), schedule, "CPU", hint)
        if variant == "bf16":
            raise RuntimeError("this processor has no bfloat16")
        return openvino_genai.ContinuousBatchingPipeline(str(folder), schedule, "CPU")

    def run(self, model: Any, prompts: list[list[int]], length: int) -> list[list[int]]:
        import numpy as np
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = length
        config.ignore_eos, config.do_sample = True, False
        rows = [openvino.Tensor(np.asarray([prompt], np.int64)) for prompt in prompts]
        return [list(each.m_generation_ids[0]) for each in model.generate(rows, [config] * len(rows))]


class CTranslate2(_Converted):
    def variants(self) -> list[str]:
        return ["f32", "int8"]

    def load(self, variant: str) -> Any:
        import ctranslate2

        quantized = ["--quantization", "int8"] if variant == "int8" else []
        command = ["ct2-transformers-converter", "--model", "SOURCE", "--output_dir", "TARGET", *quantized]
        folder, kind = self._converted(variant, command), "int8" if variant == "int8" else "float32"
        words = json.loads((self.folder / HUGGING_FACE / "vocab.json").read_text(encoding="utf-8"))
        threads = {"intra_threads": _workers.cores(), "inter_threads": 1}
        return ctranslate2.Generator(str(folder), device="cpu", compute_type=kind, **threads), list(words)

    def run(self, model: Any, prompts: list[list[int]], length: int) -> list[list[int]]:
        generator, words = model
        rows = [[words[i] for i in prompt] for prompt in prompts]
        options = {"max_length": length, "min_length": length, "sampling_topk": 1, "end_token": []}
        found = generator.generate_batch(rows, include_prompt_in_result=False, max_batch_size=len(rows), **options)
        return [each.sequences_ids[0] for each in found]


SIDES = {"openvino": OpenVino, "ctranslate2": CTranslate2}

if __name__ == "__main__":
    _workers.serve(SIDES[sys.argv[1]](**json.loads(sys.argv[2])))
