#!/bin/sh
# Run one benchmark at its tiny size and print one line; if it fails, print its output too.
# Usage: run_tiny.sh PYTHON NAME
began=$(date +%s)
output=$("$1" "benchmarks/$2.py" --tiny 2>&1)
code=$?
took="$(($(date +%s) - began)) s"
unseen=$(printf '%s\n' "$output" | grep '^[a-z_]* unseen: ')
if [ $code = 0 ] && [ -n "$unseen" ]; then echo "$unseen"; exit 0; fi
passed=$(printf '%s\n' "$output" | grep -c ' PASS$')
if [ $code = 0 ]; then echo "$2 ok: $passed gates, $took"; exit 0; fi
printf '%s FAILED (exit code %s, %s)\n%s\n' "$2" $code "$took" "$(printf '%s\n' "$output" | tail -n 30)"
exit 1
