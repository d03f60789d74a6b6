#!/usr/bin/env bash
# safetensors 0.8.0: the conjugate of a complex PyTorch tensor is saved without the conjugation: 1-2j is loaded as 1+2j.
#
# Expected: load_file returns what save_file was given. complex64 is a type of the format, and tensors that it cannot
#   save as they are, as transposed or sparse ones, raise.
# Observed: torch.conj only sets a bit and shares the memory. The tensor is contiguous, so it passes all checks, and the
#   memory is written as it is, with the other sign of all imaginary parts. Tensors made by torch._neg_view lose their
#   sign in the same way. torch.save keeps both, tensor.numpy() and torch.from_dlpack refuse them. save_model does the
#   same, and so does 0.7.0. clone() or resolve_conj() before saving is right.
# Why it matters: rotary embeddings as complex numbers (LLaMA's freqs_cis) are turned back by their conjugate, and kept as
#   buffers; state-space layers and spectral filters have complex weights. A checkpoint rotates the other way, with the
#   right names, shapes, norms and moduli, and only the model in memory has the right result.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q safetensors==0.8.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
import safetensors
import safetensors.torch
import torch

print("safetensors", safetensors.__version__, "torch", torch.__version__.split("+")[0])


def turn(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor after save_file and load_file."""
    safetensors.torch.save_file({"tensor": tensor}, "file.safetensors")
    return safetensors.torch.load_file("file.safetensors")["tensor"]


angles = torch.outer(torch.arange(4.0), torch.tensor([1.0, 0.1]))
forward = torch.polar(torch.ones_like(angles), angles)
back = forward.conj()
print("contiguous:", back.is_contiguous(), "conjugate bit:", back.is_conj())
print("forward", forward[1].tolist(), "saved conjugate", back[1].tolist(), "loaded", turn(back)[1].tolist())
assert torch.equal(turn(forward), forward) and turn(forward).dtype == torch.complex64
assert torch.equal(turn(back), forward) and not torch.equal(turn(back), back), "the behavior has changed"
assert torch.equal(turn(back.resolve_conj()), back) and torch.equal(turn(back.clone()), back)
torch.save(back, "file.pt")
assert torch.equal(torch.load("file.pt"), back)
assert torch.equal(safetensors.torch.load(safetensors.torch.save({"tensor": back}))["tensor"], forward)

vector = torch.view_as_complex(torch.randn(4, 2, 2))
print("turned there and back:", (vector * forward * back - vector).abs().max().item(), "in memory,",
      (vector * forward * turn(back) - vector).abs().max().item(), "after loading")
assert (vector * forward * back - vector).abs().max() < 1e-5


class Rotary(torch.nn.Module):
    """A module with both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("forward_turn", forward.clone())
        self.register_buffer("back_turn", forward.clone().conj())


model, loaded = Rotary(), Rotary()
safetensors.torch.save_model(model, "model.safetensors")
safetensors.torch.load_model(loaded, "model.safetensors")
print("save_model and load_model keep the conjugate:", torch.equal(loaded.back_turn, model.back_turn))
assert torch.equal(loaded.forward_turn, model.forward_turn)
assert not torch.equal(loaded.back_turn, model.back_turn), "the behavior has changed"

negative = torch._neg_view(torch.tensor([1.0, 2.0]))
print("a negative view", negative.tolist(), "is loaded as", turn(negative).tolist())
assert turn(negative).tolist() == [1.0, 2.0], "the behavior has changed"
for refuses in (torch.Tensor.numpy, torch.from_dlpack):
    try:
        refuses(back)
    except (RuntimeError, BufferError) as error:
        print(f"{refuses.__name__} refuses:", str(error)[:70])
    else:
        raise AssertionError("the behavior has changed")
PY
