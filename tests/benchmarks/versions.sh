#!/usr/bin/env bash
# Files written under the oldest supported packages decode under the newest, and the other way round, to the same
# latents; indexes do not depend on threads or graph optimisation. Usage: tests/benchmarks/versions.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
declare -A packages=(
    [oldest]="onnxruntime==1.20.0 numpy==2.0.0 pillow==12.0.0 constriction==0.4.1"
    [newest]="onnxruntime numpy pillow constriction"
)
for which in oldest newest; do
    python3 -m venv "$work/$which"
    "$work/$which/bin/pip" install -q ${packages[$which]} tqdm
    "$work/$which/bin/pip" install -q --no-deps .
done
for which in oldest newest; do
    (cd "$work" && "$work/$which/bin/python" "$OLDPWD/tests/benchmarks/versions.py" write "$work/from-$which" "$OLDPWD")
done
for which in oldest newest; do
    for from in oldest newest; do
        (cd "$work" && "$work/$which/bin/python" "$OLDPWD/tests/benchmarks/versions.py" check "$work/from-$from" "$OLDPWD")
    done
done
