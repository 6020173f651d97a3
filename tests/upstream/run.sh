#!/usr/bin/env bash
# Run tests of Pillow and imageio as they stand, each set once without and once with this package's plugins loaded, and
# print what passes only without them; exit 1 if there is any such test, 2 if the tests could not be run.
#
# The tests come from the source archives of the versions that are installed: from the package index, or else from the
# repositories. All of it lies in a temporary folder; nothing is installed. What needs the net in a test, or fails
# without the plugins as well, does not count. PYTHON names another interpreter.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" # not the repository: pip leaves files where it runs

cat >with_sgc.py <<'EOF'
"""A pytest plugin: the formats are registered before the first test."""

import imageio_plugin
import pillow_semicodec

imageio_plugin.register()
pillow_semicodec.register()
EOF

cat >compare.py <<'EOF'
"""compare.py WITHOUT.xml WITH.xml: what passes only without the plugins."""

import sys
from xml.etree import ElementTree


def passed(path):
    wrong = ("failure", "error", "skipped")
    cases = [case for case in ElementTree.parse(path).iter("testcase") if all(case.find(kind) is None for kind in wrong)]
    return {f"{case.get('classname')}::{case.get('name')}" for case in cases}


without, with_us = map(passed, sys.argv[1:])
print(f"  {len(without)} pass without the plugins, {len(with_us)} with them")
if not without:
    sys.exit("  no test ran")
for name in sorted(without - with_us):
    print(f"  ONLY WITHOUT: {name}")
sys.exit(3 if without - with_us else 0)
EOF

# fetch DISTRIBUTION REPOSITORY: the source of the installed version, in a folder of that name
fetch() {
    local version
    version=$("$python" -c "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))" "$1")
    mkdir "$1"
    echo "$1 $version"
    if "$python" -m pip download --quiet --no-deps --no-binary :all: --dest archives "$1==$version" >"$1.log" 2>&1; then
        tar -xzf archives/"$1-$version".tar.gz -C "$1" --strip-components 1
    elif ! git clone --quiet --depth 1 --branch "${3-}$version" "$2" "$1" >>"$1.log" 2>&1; then
        tail -n 5 "$1.log" >&2
        return 2
    fi
}

# compare NAME FOLDER [ARGUMENT …]: pytest with these arguments in a folder, without and with the plugins
compare() {
    local name=$1 folder=$2 kind
    shift 2
    for kind in without with; do
        (
            cd "$folder"
            options=(-q -p no:cacheprovider --junitxml "$work/$name-$kind.xml")
            path=$work
            if [ $kind = with ]; then
                options+=(-p with_sgc)
                path=$work:$repository
            fi
            # -P: the package of that folder must not stand before the installed one
            PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH} "$python" -P -m pytest "${options[@]}" "$@"
        ) >"$name-$kind.log" 2>&1 || true
        if [ ! -s "$name-$kind.xml" ]; then
            tail -n 20 "$name-$kind.log" >&2
            return 2
        fi
    done
    "$python" compare.py "$name-without.xml" "$name-with.xml" || return
}

worst=0
# run FUNCTION ARGUMENT …: remember the worst answer; what differs is 1, what could not be run 2
run() {
    local code=0
    "$@" || code=$?
    [ $code = 0 ] || code=$((code == 3 ? 1 : 2))
    worst=$((code > worst ? code : worst))
    return $code
}

# Left out: a test that asserts that every extension is one of Pillow's own.
if run fetch pillow https://github.com/python-pillow/Pillow; then
    run compare pillow pillow Tests/test_{image,imagesequence,features,main}.py \
        --deselect Tests/test_image.py::TestImage::test_registered_extensions_uninitialized || true
fi
if run fetch imageio https://github.com/imageio/imageio v; then
    run compare imageio imageio tests/test_{core,config,meta,v2}.py -m "not needs_internet" || true
fi
exit $worst
