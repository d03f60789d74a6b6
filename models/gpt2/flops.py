"""FLOPs and activation memory of the model, for --dry_run and the metrics."""

from models.gpt2.attention import blockwise
from models.gpt2.attention.select_backend import Implementation
from models.gpt2.config import GPT2Config
from models.gpt2.ops import EPSILON


def block_parameters(config: GPT2Config) -> int:
    """Number of weights in the blocks' matrices and in the projections into and out of them."""
    c = config
    projections = 2 * c.n_embd * c.width if c.projected else 0
    return c.n_layer * c.width * (4 * c.width + 2 * c.inner) + projections


def matmul_parameters(config: GPT2Config) -> int:
    """Number of weights that multiply every token: all matrices, a tied head once, an untied embedding not."""
    return block_parameters(config) + config.padded_vocab * config.n_embd


def flops_per_token(config: GPT2Config) -> float:
    """Training FLOPs per token as in PaLM (Chowdhery et al. 2022, appendix B): 6 N + 12 L D T."""
    return 6 * matmul_parameters(config) + 12 * config.n_layer * config.width * config.n_ctx


def activation_bytes(config: GPT2Config, implementation: Implementation) -> float:
    """Estimated bytes saved for the backward pass of one sequence: the inputs of each layer's products and
    nonlinearities (fewer with rematerialization), and the float32 logits with their gradient."""
    c = config
    width = 4 if c.precision == "float32" else 2
    # The native gradients compute layer norms and GELUs again; those of other kinds are kept.
    is_recomputed = implementation == "native" and (c.activation, c.layer_norm_epsilon) == ("gelu_new", EPSILON)
    every = 6 * c.width + c.inner if is_recomputed else 9 * c.width + 3 * c.inner
    kept = {"none": every, "dots": 6 * c.width + c.inner, "full": c.width}
    weights = {"reference": 12, "blocked": width * blockwise.computed_share(c.n_ctx)}.get(implementation, 0)
    attention_BHTS = weights * c.heads * c.n_ctx
    # "native" has the gradient of all logits, and an eighth of these in float32.
    scores = (width + 1) * c.padded_vocab if implementation == "native" else 8 * c.padded_vocab
    layers = c.n_layer if c.remat != "full" else 1
    per_token = width * kept[c.remat] * c.n_layer + attention_BHTS * layers + scores
    return float(c.n_ctx * per_token)
