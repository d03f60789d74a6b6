#!/bin/sh
# Prints which JAX this machine needs: tpu, cuda13, cuda12 or cpu. `make setup` and `--tpu` install by it.
if ls /dev/accel* /dev/vfio/[0-9]* > /dev/null 2>&1; then
  echo tpu
elif driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2> /dev/null | head -n 1) && [ -n "$driver" ]; then
  # CUDA 13 needs a driver of at least 580, and has no code for GPUs before Turing (compute capability 7.5).
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | sort -n | head -n 1 | tr -d .)
  if [ "${driver%%.*}" -ge 580 ] && [ "${capability:-75}" -ge 75 ]; then echo cuda13; else echo cuda12; fi
else
  echo cpu
fi
