#!/usr/bin/env bash
# Everything that a machine with an NVIDIA GPU is asked, each step bounded in time; figures go to a folder.
#
#   benches/gpu.sh OUT [CORPUS]     CORPUS: a folder of `cloze prepare`, for the ten minutes of pre-training
#
# Needs the driver, libcublasLt and libnvrtc (see docs/cuda.md), and for the peers a Python with a CUDA build of torch and transformers (PYTHON).
# This script has never run on a GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
out="${1:?usage: benches/gpu.sh OUT [CORPUS]}"
corpus="${2:-}"
python="${PYTHON:-python3}"
mkdir -p "$out"
failed=0

# step NAME SECONDS COMMAND…: run, keep the output, go on whatever happens.
step() {
    local name="$1" seconds="$2"
    shift 2
    printf '== %s\n' "$name"
    if timeout "$seconds" "$@" >"$out/$name.txt" 2>&1; then
        tail -n 3 "$out/$name.txt"
    else
        printf 'FAILED (%d): see %s\n' "$?" "$out/$name.txt"
        failed=1
    fi
}

step device 30 nvidia-smi
step build 1800 cargo build --release
step build-tests 1800 cargo test -p cloze-cuda --no-run
step conformance 600 cargo test -p cloze-cuda --test cuda -- --nocapture --test-threads 1 on_a_gpu::
if grep -q "skipped: no CUDA device" "$out/conformance.txt"; then
    echo "there is no CUDA device here"
    exit 1
fi
if command -v compute-sanitizer >/dev/null; then
    binary="$(find target/debug/deps -maxdepth 1 -name 'cuda-*' -type f -perm -u+x -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2)"
    for tool in memcheck racecheck; do
        step "$tool" 900 compute-sanitizer --tool "$tool" --error-exitcode 1 "$binary" --test-threads 1 on_a_gpu::ops on_a_gpu::optimizers
    done
else
    echo "compute-sanitizer is not there: skipped"
fi
cloze=target/release/cloze
for model in base small; do
    for length in 128 512; do
        sequences=$((65536 / length))
        step "ops-$model-$length" 300 $cloze bench ops --device cuda --model $model --length $length --sequences $sequences --precision bf16 --steps 20
        step "train-$model-$length" 300 $cloze bench train-step --device cuda --model $model --length $length --sequences $sequences --precision bf16 --steps 20
    done
done
step peers 1800 "$python" benches/peers/gpu.py --cloze $cloze
if [[ -n "$corpus" ]]; then
    step pretrain 900 $cloze pretrain recipes/bilingual-small.toml --device cuda --set data.dir="$corpus" --set out="$out/run" --set train.budget=10m
fi
exit $failed
