"""The rules behind the dial: from a size and an amount of text and training to settings and an expected loss.

Sources of the rules (arXiv numbers):
- shape: width 64 a layer, heads of 64, as nanochat's depth dial (github.com/karpathy/nanochat).
- batch: B = 0.58 D^0.571 tokens ("Step Law", 2503.04715), between the smallest that a device runs well and D / 200.
- learning rate: Muon's, spectral condition d^-0.5 anchored on modded-nanogpt's tuned runs; the same value as our own
  searches (docs/numbers.md) within a factor of two.
- optimizer: NorMuon (2510.05491), which helped runs of 216 and 300 steps on two texts (docs/numbers.md).
- weight decay: from the time scale tau = B / (lr decay D) = 1.084 (D/N)^-0.527 (Power Lines, 2505.13738).
- repeated text: D' = U + 15.4 U (1 - exp(-(e - 1) / 15.4)) for e epochs (2305.16264), dropout from 2 epochs on.
- loss: bits per byte = text * (E + (A N^-a + B / D')^k), Kaplan's form (2001.08361, equation 1.5) with a floor. Its
  constants are our fit, see LOSS. Chinchilla's sum of two powers missed small runs: there, more tokens help a larger
  model more.
"""

import math
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """Blocks and their width; heads are 64 wide."""

    layers: int
    width: int

    @property
    def matrices(self) -> int:
        """Weights of the blocks' matrices."""
        return 12 * self.layers * self.width**2

    @property
    def parameters(self) -> int:
        """Weights in products, with the largest vocabulary that `vocabulary` gives to this shape."""
        return self.matrices + self.width * vocabulary(self, math.inf)


LADDER = tuple(Shape(max(2, d // 64), d) for d in (64, 128, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 1920))
CONTEXTS = ((3e14, 128), (1e17, 256), (1e19, 512), (math.inf, 1024))  # (FLOPs below which, n_ctx)
VOCABULARIES = (257, 512, 1024, 2048, 4096, 8192, 16384, 32768)
BYTES_PER_ID = 200  # of text, for a vocabulary that is learned from it
DECAY = 0.7  # share of the run over which the rate falls
COMPRESSED = 2.43  # bits per byte, under LZMA, of the windows of the text that LOSS was fitted on
STEPS = 200  # fewest, where the batch can be smaller
REUSE = 15.388  # epochs after which repeated text is worth 1 - 1/e of what it can be (2305.16264)


class LossLaw(NamedTuple):
    """bits per byte = text * (floor + (size N^-size_power + data / D')^power); N: matrices and head, D': tokens."""

    floor: float
    size: float
    size_power: float
    data: float
    power: float

    def __call__(self, parameters: float, tokens: float) -> float:
        return self.floor + (self.size * parameters**-self.size_power + self.data / tokens) ** self.power


# Fitted on 2026-12-01 to 47 of the 51 runs of at most 1e13 FLOPs in benchmarks/loss_law.csv, one seed each: Python's
# documentation, tinyshakespeare and the standard library's source, N 0.16 to 6.8 M, D 0.08 to 6.4 M, up to 17 epochs,
# n_ctx 128, vocabularies of 1,024 and 2,048. By `python -m benchmarks.loss_law` it meets the 51 within 1.85 % (RMS), at
# most 4.6 %, with a factor for each text and vocabulary, and four runs of 3e13 FLOPs, made after the fit, within 1.6 %.
# Other constants do as well (power 0.29 has 1.81 %): the floor is that of an earlier fit, and size_power the value with
# which a run of 1e18 FLOPs trains on 10 tokens per weight, as nanochat measured for 1e18 to 1e19. In between nothing
# was measured: expect errors of 5 % within a factor of ten of these runs, more beyond.
LOSS = LossLaw(floor=0.813, size=2.973e6, size_power=1.2, data=8.07e5, power=0.189)


class Text(NamedTuple):
    """tokens: of training, each counted once. bytes_per_token. compressed: bits per byte under LZMA (None: unknown),
    which places the text on the law's scale."""

    tokens: int
    bytes_per_token: float
    compressed: float | None

    @property
    def scale(self) -> float:
        """Factor of the law. It meets the fitted factors of Python's documentation within 2 %, those of tinyshakespeare
        within 2 % (2,048 ids) and 6 % (1,024), and those of source, whose held-out files differ, within 10 %.
        """
        return 1.007 * (self.compressed / COMPRESSED) ** 0.38 if self.compressed else 1.0


def work(shape: Shape, n_ctx: int) -> float:
    """FLOPs of training on a token, with the largest vocabulary of the shape."""
    return 6 * shape.parameters + 12 * shape.layers * shape.width * n_ctx


def context(flops: float) -> int:
    """n_ctx for a run of so many FLOPs."""
    return next(n for limit, n in CONTEXTS if flops < limit)


def optimal(flops: float, n_ctx: int) -> Shape:
    """The shape with the lowest loss for so many FLOPs of new text, each with its largest vocabulary."""
    return min(LADDER, key=lambda shape: LOSS(shape.parameters, flops / work(shape, n_ctx)))


def for_tokens(tokens: float, n_ctx: int) -> Shape:
    """The shape that would be optimal for the FLOPs it takes on so many tokens."""
    return next((s for s in reversed(LADDER) if optimal(tokens * work(s, n_ctx), n_ctx) >= s), LADDER[0])


def vocabulary(shape: Shape, text_bytes: float) -> int:
    """n_vocab to learn from a text: a table no larger than the matrices, and enough text for each id.

    At 2 layers, 64 wide and 1e12 FLOPs of Python's documentation, 512, 1,024 and 2,048 ids gave 2.13, 1.94 and 2.00
    bits per byte. Of small texts, tokens of the same FLOPs and other text to evaluate on: 0.6 MB of source with 512,
    1,024 and 2,048 ids 2.37, 2.17 and 2.08, of documentation 2.48, 2.24 and 2.14 (1e12 FLOPs); 0.14 MB of source with
    257, 512 and 1,024 ids 3.31, 2.79 and 2.66 (2.5e11 FLOPs; all 2026-11-28, one seed each).
    """
    most = min(shape.matrices / shape.width, text_bytes / BYTES_PER_ID)
    return max((n for n in VOCABULARIES if n <= most), default=VOCABULARIES[0])


def batch(tokens: float, *, n_ctx: int, least: int) -> int:
    """Sequences of a step. least: tokens of the smallest that runs well; for STEPS steps it may be smaller."""
    wanted = max(0.58 * tokens**0.571, least)
    wanted = min(wanted, max(tokens / STEPS, n_ctx))
    return 2 ** max(0, round(math.log2(wanted / n_ctx)))


def settings(shape: Shape, steps: int, *, batch_tokens: int, parameters: float, unique: int) -> dict[str, Any]:
    """The keys of the optimizer and of dropout. parameters: weights in products. unique: tokens of the text."""
    tokens = steps * batch_tokens
    lr = learning_rate(shape, tokens=tokens, batch_tokens=batch_tokens)
    epochs = tokens / unique
    rate = 0.0 if epochs <= 2 else 0.1 if epochs <= 10 else 0.2
    return {
        "opt_name": "muon",
        "lr": _rounded(lr),
        "schedule": "wsd",
        "decay_fraction": DECAY,
        "warmup_steps": max(1, min(steps // 10, max(5, steps // 100))),
        "weight_decay": _rounded(weight_decay(lr, steps, tokens=tokens, parameters=parameters, unique=unique)),
        "neuron_beta2": 0.95,
        "beta2": _rounded(max(0.95, min(0.999, 1 - 6 / steps))),  # averages over a sixth of the run
        "embed_dropout": rate,
        "attn_dropout": 0.0,  # fast attention has none
        "res_dropout": rate,
    }


def learning_rate(shape: Shape, *, tokens: float, batch_tokens: float) -> float:
    """Muon's, where an update has an RMS of 0.2 times the rate."""
    rate = 0.125 * shape.width**-0.5
    scale = (tokens / 1.7e9) ** -0.395 * (batch_tokens / 524288) ** 0.5 * (shape.width / 768) ** -0.15
    return rate * min(1.5, max(0.3, 0.6 * scale))


def weight_decay(lr: float, steps: int, *, tokens: float, parameters: float, unique: float) -> float:
    """By the time scale of its average over updates, stronger where the text is repeated more than four times."""
    tau = min(1.0, max(0.05, 1.084 * (tokens / parameters) ** -0.527))
    epochs = tokens / unique
    more = (epochs / 4 * (1 + parameters / unique)) ** 0.5 if epochs > 4 else 1.0
    return min(1.0, max(0.05, min(16.0, more) / (lr * steps * tau)))


def effective(tokens: float, unique: float) -> float:
    """Tokens of new text that are worth as much as `tokens` drawn from `unique` ones."""
    if tokens <= unique:
        return tokens
    return unique * (1 + REUSE * (1 - math.exp(-(tokens / unique - 1) / REUSE)))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
