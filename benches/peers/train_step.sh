#!/usr/bin/env bash
# One training step, PyTorch and Cloze in turn, so that both see the same machine at the same time.
#   [CLOZE=target/release/cloze] [PYTHON=…] benches/peers/train_step.sh [ROUNDS] [MODEL…]
# MODES and PRECISIONS choose what runs ("f32 bf16 bf16-compile" and "f32 bf16"); STEPS is the number of timed torch steps.
# Prints a Markdown table: medians over the rounds (the fastest step beside them: it says how noisy the machine was), and the
# ratio to the fastest peer of the same precision. Without CLOZE
# only the peers run. The JSON lines stay in LINES_FILE (a temporary file unless set; an existing one is added to).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rounds=${1:-3}
shift || true
models=("$@")
[ ${#models[@]} -gt 0 ] || models=(base mini)
read -ra modes <<<"${MODES:-f32 bf16 bf16-compile}"
read -ra precisions <<<"${PRECISIONS:-f32 bf16}"
python=${PYTHON:-$here/.venv/bin/python}
lines=${LINES_FILE:-$(mktemp)}
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE

for round in $(seq "$rounds"); do
    for model in "${models[@]}"; do
        for mode in "${modes[@]}"; do
            echo "round $round: torch $model $mode" >&2
            "$python" "$here/train_step.py" --model "$model" --mode "$mode" --steps "${STEPS:-6}" 2>>"$lines.log" >>"$lines" ||
                echo "failed, see $lines.log" >&2
        done
        [ -n "${CLOZE:-}" ] || continue
        for precision in "${precisions[@]}"; do
            echo "round $round: cloze $model $precision" >&2
            "$CLOZE" bench train-step --model "$model" --precision "$precision" --json --threads 2 2>>"$lines.log" |
                "$python" -c '
import json, sys
row = json.loads(sys.stdin.read().strip().splitlines()[-1])
row.update(peer="cloze", model=sys.argv[1], mode=sys.argv[2])
print(json.dumps(row))' "$model" "$precision" >>"$lines" || echo "failed, see $lines.log" >&2
        done
    done
done

"$python" - "$lines" <<'PYTHON'
import json, statistics, sys

rows = [json.loads(line) for line in open(sys.argv[1]) if line.startswith("{")]
groups = {}
for row in rows:
    groups.setdefault((row["model"], row["mode"].split("-")[0]), {}).setdefault((row["peer"], row["mode"]), []).append(row)
print("| model | engine | runs | step, s | fastest step, s | tokens/s | peak MB | speed against the fastest peer | memory against it |")
print("|---|---|---|---|---|---|---|---|---|")
for (model, precision), engines in groups.items():
    middle = {}
    for engine, runs in engines.items():
        middle[engine] = [statistics.median(run[key] for run in runs) for key in
                          ("step_seconds", "tokens_per_second", "peak_rss_mb")]
        middle[engine] += [len(runs), min(run.get("fastest_step_seconds", run["step_seconds"]) for run in runs)]
    peers = {engine: value for engine, value in middle.items() if engine[0] != "cloze"}
    best = max(peers.values(), key=lambda value: value[1]) if peers else None
    for (peer, mode), (step, speed, peak, runs, fastest) in middle.items():
        against = f"{speed / best[1]:.2f} × | {peak / best[2]:.2f} ×" if best else "– | –"
        print(f"| {model} | {peer} {mode} | {runs} | {step:.3f} | {fastest:.3f} | {speed:,.0f} | {peak:,.0f} | {against} |")
PYTHON
