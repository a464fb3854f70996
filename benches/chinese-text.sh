#!/bin/sh
# Chinese text to pre-train on out of a data folder: text/, and the texts of the training files of its tasks, without any label. No dev or test row.
#   benches/chinese-text.sh FOLDER OUT        (needs zstd and jq)
set -e
D=$1 OUT=$2
mkdir -p "$OUT"
for f in "$D"/text/zh_*.txt.zst; do zstd -dcq "$f" > "$OUT/$(basename "$f" .zst)"; done
{
  for f in cls_zh/chnsenticorp cls_zh/tnews; do zstd -dcq "$D/$f.train.tsv.zst" | tail -n +2 | cut -f1; done
  for f in pair_zh/afqmc pair_zh/bustm pair_zh/ocnli; do zstd -dcq "$D/$f.train.tsv.zst" | tail -n +2 | cut -f1,2 | tr '\t' '\n'; done
  for f in mt/tatoeba_en_zh.train mt/news_commentary_en_zh.sample; do zstd -dcq "$D/$f.tsv.zst" | tail -n +2 | cut -f2; done
  for f in ner/cluener_zh ner/resume_zh; do zstd -dcq "$D/$f.train.jsonl.zst" | jq -r '.tokens | add'; done
} | sed G > "$OUT/lines.txt"
{
  zstd -dcq "$D/qa/cmrc2018_zh.train.jsonl.zst" "$D/mc/c3_zh.train.jsonl.zst" | jq -rs 'unique_by(.context)[] | .context, ""'
  zstd -dcq "$D/sum/csl_zh.dev.jsonl.zst" | jq -r '.source, ""'
  zstd -dcq "$D/dialog/kdconv_zh.dev.jsonl.zst" "$D/dialog/lccc_zh.train.jsonl.zst" | jq -r '(.turns[] | .text? // .), ""'
  zstd -dcq "$D/med/medical_dialogue_zh.train.jsonl.zst" | jq -r '.title, .question, .answer, ""'
} > "$OUT/documents.txt"
