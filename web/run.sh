#!/usr/bin/env bash
# The playground and the page of `cloze attention --html` in a real browser: web/run.sh [FOLDER FOR SCREENSHOTS] [MODEL …]
# Without models the tiny ones of fixtures/ are served. CLOZE names the binary, CHROMIUM the browser.
set -euo pipefail
cd "$(dirname "$0")/.."
shots=${1:-}
shift || true
cloze=${CLOZE:-target/debug/cloze}
[[ -x $cloze ]] || cargo build -p cloze-cli
[[ -d web/node_modules/axe-core ]] || (cd web && npm install --no-audit --no-fund)
scratch=$(mktemp -d)
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null; rm -rf "$scratch"' EXIT
models=("$@")
if [[ ${#models[@]} == 0 ]]; then
    # The classifier of the fixtures shares the tokenizer of the other model.
    cp -r fixtures/bert-tiny-classifier "$scratch/labels"
    cp fixtures/bert-tiny/{tokenizer.json,tokenizer_config.json,vocab.txt} "$scratch/labels"
    models=("words=fixtures/bert-tiny" "labels=$scratch/labels")
fi
mkdir -p "$scratch/runs/first"
for i in $(seq 60); do
    echo "{\"event\":\"step\",\"step\":$i,\"loss\":$((900 - 10 * i))e-2,\"learning_rate\":$i.0e-5,\"tokens_per_second\":$((9000 + i % 7))}"
done >"$scratch/runs/first/log.jsonl"
options=()
for model in "${models[@]}"; do options+=(--model "$model"); done
"$cloze" serve "${options[@]}" --port 0 --log off --runs "$scratch/runs" >"$scratch/out" &
server=$!
for _ in $(seq 200); do grep -q listening "$scratch/out" && break; sleep 0.1; done
first=${models[0]#*=}
"$cloze" attention --quiet --model "$first" --html "$scratch/attention.html"
node web/test.mjs "$(sed 's/listening on //' "$scratch/out")" --page "$scratch/attention.html" ${shots:+--shots "$shots"}
