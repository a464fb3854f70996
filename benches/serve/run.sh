#!/usr/bin/env bash
# Cloze's server and Python's in turn on the same texts: benches/serve/run.sh MODEL [SECONDS]; see README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=$1
seconds=${2:-20}
python=${PYTHON:-python3}
cloze=${CLOZE:-target/release/cloze}
load=${LOAD:-target/release/examples/load}
[[ -x $load ]] || cargo build --release -p cloze-serve --example load
[[ -x $cloze ]] || cargo build --release

server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null' EXIT
drive() { # NAME PORT PATH-OF-HEALTH COMMAND…
    local name=$1 port=$2 health=$3
    shift 3
    "$@" >/dev/null 2>&1 &
    server=$!
    for _ in $(seq 240); do
        curl -sf "http://127.0.0.1:$port$health" >/dev/null && break
        sleep 0.5
    done
    for clients in ${CLIENTS:-1 64}; do
        for mix in short lognormal; do
            printf '%s: ' "$name"
            # shellcheck disable=SC2086
            "$load" "127.0.0.1:$port" ${dialect:-} --mix $mix --clients "$clients" --seconds "$seconds"
        done
    done
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=
}

for precision in ${PRECISIONS:-f32 bf16}; do
    drive "cloze $precision" 3000 /health "$cloze" serve --model "$model" --precision "$precision" --port 3000 --log off
done
drive "fastapi + sentence-transformers" 3001 /docs "$python" benches/serve/fastapi_server.py "$model" 3001
if [[ -n ${INFINITY:-} ]]; then
    dialect="--openai model --path /embeddings"
    drive "infinity" 3002 /health "$INFINITY" v2 --model-id "$model" --served-model-name model --port 3002 --device cpu --engine torch --dtype float32
fi

texts=$(mktemp)
"$load" --texts 4096 --mix lognormal >"$texts"
mv "$texts" "$texts.jsonl"
for precision in ${PRECISIONS:-f32 bf16}; do
    begin=$(date +%s.%N)
    "$cloze" predict --task sentence-embedding --model "$model" --input "$texts.jsonl" --out "$texts.out" --precision "$precision" >/dev/null
    end=$(date +%s.%N)
    echo "without a server, $precision: $(echo "4096 / ($end - $begin)" | bc -l | cut -c1-7) texts a second, start and writing included"
    rm "$texts.out"
done
rm "$texts.jsonl"
