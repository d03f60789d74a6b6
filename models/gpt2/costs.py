"""What computing the model costs, counted or estimated: for the plan of a run and its metrics."""

from models.gpt2 import blocked
from models.gpt2.attention import Implementation
from models.gpt2.gpt2 import GPT2Config


def block_parameters(config: GPT2Config) -> int:
    """Weights of the blocks' matrices, and of the projections into and out of them."""
    c = config
    projections = 2 * c.n_embd * c.width if c.projected else 0
    return c.n_layer * c.width * (4 * c.width + 2 * c.inner) + projections


def matmul_parameters(config: GPT2Config) -> int:
    """Weights that every token is multiplied with: all matrices, a tied head once, an embedding beside a head not."""
    return block_parameters(config) + config.padded_vocab * config.n_embd


def flops_per_token(config: GPT2Config) -> float:
    """Of a training step, counted as PaLM (Chowdhery et al. 2022, appendix B): 6 N + 12 L D T."""
    return 6 * matmul_parameters(config) + 12 * config.n_layer * config.width * config.n_ctx


def activation_bytes(config: GPT2Config, implementation: Implementation) -> float:
    """Estimate of what the backward pass of one sequence keeps: per layer the inputs of its products and
    nonlinearities (or, rematerialised, less), and the logits with their gradient in float32."""
    c = config
    width = 2 if c.precision == "bfloat16" else 4
    kept = {"none": 9 * c.width + 3 * c.inner, "dots": 6 * c.width + c.inner, "full": c.width}
    weights = {"reference": 12, "blocked": width * blocked.computed_share(c.n_ctx)}.get(implementation, 0)
    attention_BHTS = weights * c.heads * c.n_ctx
    layers = c.n_layer if c.remat != "full" else 1
    per_token = width * kept[c.remat] * c.n_layer + attention_BHTS * layers + 8 * c.padded_vocab
    return float(c.n_ctx * per_token)
