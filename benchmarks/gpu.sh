#!/bin/sh
# Measures one CUDA card in at most eight minutes, on random weights of a model of half a billion parameters:
#   benchmarks/gpu.sh [-o gpu.md]
# `--tiny` tries every step on any machine. Takes $PYTHON, else .venv, else python3, with what is installed there.
set -eu
begun=$(date +%s)
output=$PWD
cd "$(dirname "$0")/.."
for python in "${PYTHON:-}" .venv/bin/python python3; do
  [ -n "$python" ] && "$python" -c 'import torch' 2>/dev/null && break
done
missing() {
  "$1" -c 'import importlib.util as find
print(*[name for name in "torch transformers peft safetensors accelerate numpy polars pydantic scipy rich typer \
jinja2 tomli_w tokenizers".split() if not find.find_spec(name)])'
}
lacks=$(missing "$python")
if [ -n "$lacks" ]; then
  echo "missing in $python: $lacks; trying to install" >&2
  "$python" -m venv --system-site-packages build/gpu-venv
  python=$PWD/build/gpu-venv/bin/python
  timeout 150 "$python" -m pip install --quiet --disable-pip-version-check ".[local]" \
    || { echo "could not install: $lacks; install them and run this again" >&2; exit 1; }
fi
case " $* " in *" --tiny "*) seconds=3600 ;; *) seconds=$((begun + 475 - $(date +%s))) ;; esac
root=$PWD
cd "$output"
PYTHONPATH="$root/src:$root" exec timeout "$seconds" "$python" -m benchmarks gpu "$@"
