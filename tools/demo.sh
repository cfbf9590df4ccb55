#!/usr/bin/env bash
# Generates a synthetic data set, trains and tests a small BiRefNet, and draws a contact sheet of the held-out images.
# Usage: tools/demo.sh [FOLDER]   (work_dirs/demo)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-work_dirs/demo}
config=$(echo configs/birefnet_synthetic/birefnet_swin-nano_*_synthetic-256x256.py)
mkdir -p "$out"
export MMBIREFNET_DATA=$out/data

step() { echo; echo "==> $1"; }
start=$SECONDS

step "synthetic data set in $out/data (10 s)"
python tools/dataset_converters/make_synthetic_dis.py "$out/data" --size 384 --overwrite

step "training, log in $out/train.log (about 6 minutes on 2 cores)"
if ! python tools/train.py "$config" --work-dir "$out" >"$out/train.log" 2>&1; then
    tail -n 20 "$out/train.log" >&2
    echo "demo: training failed, see $out/train.log" >&2
    exit 1
fi
grep -E 'Epoch\(train\)' "$out/train.log" | sed 's/.*Epoch/Epoch/' | cut -c1-110 | awk 'NR % 4 == 0'

step "testing on DIS-VD, maps in $out/maps"
if ! python tools/test.py "$config" "$(cat "$out/last_checkpoint")" --work-dir "$out" --out "$out/maps" \
    >"$out/test.log" 2>&1; then
    tail -n 20 "$out/test.log" >&2
    echo "demo: testing failed, see $out/test.log" >&2
    exit 1
fi
grep '^|' "$out/test.log"

step "contact sheet: image, mask, map"
python tools/analysis_tools/contact_sheet.py --images "$out/data/DIS-VD/im" --gt "$out/data/DIS-VD/gt" \
    --pred "$out/maps" --out "$out/contact_sheet.png"
echo
echo "done in $((SECONDS - start)) s: checkpoint $(cat "$out/last_checkpoint"), figure $out/contact_sheet.png"
