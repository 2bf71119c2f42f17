#!/bin/sh
# Install packages with uv, from where pip is configured to find them; with pip where uv is missing or fails.
# Usage: install.sh BIN ARGUMENTS (those that `uv pip install` and `pip install` share)
set -eu
bin=$1
shift

# uv reads no file of pip's. As for pip, the environment counts before pip's section for `install`, and that before `global`.
# Several values stand on one line.
setting() {
  for section in :env: install global; do
    found=$("$bin/pip" config list | sed -n "s/^$section\.$1='\(.*\)'\$/\1/p" | sed 's/\\n/ /g; s/^ *//; s/ *$//')
    if [ -n "$found" ]; then echo "$found"; return; fi
  done
}

case $(setting no-index) in '' | 0 | f | false | n | no | off) may_ask=yes ;; *) may_ask=no ;; esac # pip knows its folders

if [ -x "$bin/uv" ] && [ $may_ask = yes ]; then
  index=$(setting index-url)
  more=$(setting extra-index-url)
  links=$(setting find-links | tr -s ' ' ',')
  cert=$(setting cert)
  if [ -n "$index" ]; then export UV_INDEX_URL="${UV_INDEX_URL:-$index}"; fi
  if [ -n "$more" ]; then export UV_EXTRA_INDEX_URL="${UV_EXTRA_INDEX_URL:-$more}"; fi
  if [ -n "$links" ]; then export UV_FIND_LINKS="${UV_FIND_LINKS:-$links}"; fi
  if [ -n "$cert" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"; fi
  # As pip chooses: the pinned version from whichever index has it. Bytecode, because a test run imports nearly all of it.
  if "$bin/uv" pip install --python "$bin/python" --quiet --no-deps --index-strategy unsafe-best-match \
    --compile-bytecode "$@"; then exit 0; fi
  echo "uv could not install $*: pip tries" >&2
fi
exec "$bin/pip" install --quiet --disable-pip-version-check --no-deps "$@"
