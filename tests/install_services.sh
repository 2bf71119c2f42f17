#!/bin/sh
# Debian packages the tests drive: chromium (the HTML report), slurm-wlm and munge (the SLURM
# launcher), openssh-server (launch/ssh). Needs root.
set -eu
missing=
command -v chromium >/dev/null || missing="$missing chromium"
command -v sbatch >/dev/null || missing="$missing slurm-wlm"
command -v munged >/dev/null || missing="$missing munge"
command -v sshd >/dev/null || missing="$missing openssh-server"
[ -n "$missing" ] || exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends $missing >/dev/null
