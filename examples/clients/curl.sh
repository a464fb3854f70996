#!/bin/sh
# cloze serve --model DIR, then: sh examples/clients/curl.sh
at="${1:-http://127.0.0.1:3000}"
ask() { echo "$1"; curl -sS "$at$1" -H 'content-type: application/json' -d "$2" | head -c 300; echo; }

curl -sS "$at/info"; echo
ask /tokenize '{"inputs": "The cat sat on the mat"}'
ask /embed '{"inputs": ["The cat sat on the mat", "猫坐在垫子上"]}'
ask /similarity '{"inputs": {"source_sentence": "The cat sat on the mat", "sentences": ["A cat sits on a rug", "It will rain"]}}'
ask /v1/embeddings '{"input": "The cat sat on the mat"}'
ask /predict '{"inputs": "I like this film very much"}'
ask /fill-mask '{"text": "The capital of France is [MASK]."}'
