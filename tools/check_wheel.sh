#!/usr/bin/env bash
# Whether a wheel works alone: installed from local files only into an empty environment, it trains without a network.
#   python -m build && tools/check_wheel.sh dist/*.whl
#   WHEELHOUSE=DIR tools/check_wheel.sh dist/*.whl    # keep the dependencies' wheels in DIR
# Linux only. `unshare --net` needs root; others are taken through sudo.
set -euo pipefail
wheel=$(realpath "$1")
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
wheelhouse=${WHEELHOUSE:-$scratch/wheelhouse}

"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip download --quiet --dest "$wheelhouse" "$wheel"
"$scratch/venv/bin/python" -m pip install --quiet --no-index --find-links "$wheelhouse" "$wheel"

mkdir "$scratch/elsewhere"
cd "$scratch/elsewhere"
alone=(unshare --net env -i "PATH=/usr/bin:/bin" "HOME=$PWD" "$scratch/venv/bin/sunlab")
[ "$(id -u)" = 0 ] || alone=(sudo unshare --net --setuid "$(id -u)" --setgid "$(id -g)" "${alone[@]:2}")
"${alone[@]}" config --list
"${alone[@]}" config --copy configs
cmp configs/quickstart.yaml "$("$scratch/venv/bin/python" -c 'import sunlab; print(sunlab.__path__[0])')/configs/quickstart.yaml"
"${alone[@]}" fit --config @quickstart trainer.max_steps=3 callbacks.3.measured=4 callbacks.3.control=null
test -s runs/quickstart/export/adapter.safetensors
echo "ok: $(basename "$wheel") trains in an environment of its own, without a network"
