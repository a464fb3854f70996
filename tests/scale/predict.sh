#!/usr/bin/env bash
# Prediction over a file of a gigabyte: memory stays flat, order is kept, and a run that is killed (kill -9) and started again loses and doubles no row.
#   tests/scale/predict.sh MODEL [MEGABYTES] [KILLS]
# MODEL: a folder that classifies or embeds, such as runs/quickstart/sentiment/model. Needs awk and GNU time; takes some minutes.
set -euo pipefail
model=$1
megabytes=${2:-1000}
kills=${3:-3}
cloze=${CLOZE:-target/release/cloze}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "writing $megabytes MB"
awk -v bytes=$((megabytes * 1000000)) 'BEGIN {
    srand(7)
    count = split("the old young sailor farmer child dog cat house boat river walked slept saw found near under with quietly again 猫 坐 在 垫子 上", word, " ")
    for (row = 0; written < bytes; row++) {
        text = ""
        for (n = 100 + int(rand() * 150); n > 0; n--) text = text word[1 + int(rand() * count)] " "
        line = "{\"id\": " row ", \"text\": \"" row " " text "\"}"
        written += length(line) + 1
        print line
    }
}' >"$work/rows.jsonl"
rows=$(wc -l <"$work/rows.jsonl")
echo "$rows rows, $(stat -c %s "$work/rows.jsonl") bytes"

predict() { "$cloze" predict --model "$model" --input "$work/rows.jsonl" --out "$work/answers.jsonl" --max-length 16 --json; }
for kill in $(seq "$kills"); do
    predict >/dev/null 2>"$work/log" &
    running=$!
    sleep "$((2 + RANDOM % 5))"
    kill -9 "$running" 2>/dev/null || true
    wait "$running" 2>/dev/null || true
    echo "killed once more after $(wc -l <"$work/answers.jsonl" 2>/dev/null || echo 0) answers"
done
begin=$(date +%s)
/usr/bin/time -f '%M' -o "$work/memory" "$cloze" predict --model "$model" --input "$work/rows.jsonl" --out "$work/answers.jsonl" --max-length 16 --json >/dev/null
echo "the rest took $(($(date +%s) - begin)) s, $(($(cat "$work/memory") / 1000)) MB at most"

# Row i of the answers is row i of the input: each text begins with the number of its row.
awk -v rows="$rows" '{
    if (match($0, /"text":[ ]*"[0-9]+ /) == 0) { print "line " NR " has no text: " $0; exit 1 }
    found = substr($0, RSTART, RLENGTH); gsub(/[^0-9]/, "", found)
    if (found != NR - 1) { print "line " NR " answers row " found; exit 1 }
    if ($0 !~ /"answer":/) { print "line " NR " has no answer"; exit 1 }
} END { if (NR != rows) { print NR " answers for " rows " rows"; exit 1 } }' "$work/answers.jsonl"
echo "all $rows rows are answered once, in their order"
