#!/usr/bin/env bash
# Other people's clients against a server of a tiny model: OpenAI's Python client, and Hugging Face's client for text-embeddings-inference.
#   pip install openai huggingface_hub; cargo build --release; tests/clients/run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
program="${CLOZE:-target/release/cloze}"
python="${PYTHON:-python3}"
out="$(mktemp)"
# The classifier has the vocabulary of the other model.
labels="$(mktemp -d)"
cp fixtures/bert-tiny-classifier/* fixtures/bert-tiny/vocab.txt "$labels"
"$program" serve --model words=fixtures/bert-tiny --model labels="$labels" --port 0 --log off >"$out" 2>/dev/null &
server=$!
trap 'kill $server 2>/dev/null; rm -rf "$out" "$labels"' EXIT
for _ in $(seq 100); do
    at="$(sed -n 's/^listening on //p' "$out")"
    [[ -n "$at" ]] && break
    sleep 0.1
done
"$python" tests/clients/clients.py "$at"
if command -v node >/dev/null; then node examples/clients/client.mjs "$at" >/dev/null && echo "JavaScript: well"; fi
sh examples/clients/curl.sh "$at" >/dev/null && echo "curl: well"
