#!/usr/bin/env python3
"""Speed of Hugging Face's tokenizers: WordPiece vocabulary training and encode_batch, on a plain text file.

    tokenizer.py train  --input FILE [--vocab-size 30000] [--out tokenizer.json] [--cased]
    tokenizer.py encode --input FILE --tokenizer tokenizer.json [--batch 1000] [--runs 3]

Both take --threads (default 2). One JSON line each: megabytes (10^6 bytes) of text a second, seconds, peak resident memory. Encoding
reads the file's non-empty lines first and times encode_batch and encode_batch_fast (no offsets) alone; the median of the runs.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("job", choices=["train", "encode"])
parser.add_argument("--input", required=True)
parser.add_argument("--vocab-size", type=int, default=30000)
parser.add_argument("--out")
parser.add_argument("--cased", action="store_true")
parser.add_argument("--tokenizer")
parser.add_argument("--batch", type=int, default=1000)
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
if args.job == "encode" and not args.tokenizer:
    sys.exit("encode needs --tokenizer tokenizer.json")
os.environ["RAYON_NUM_THREADS"] = str(args.threads)
os.environ["TOKENIZERS_PARALLELISM"] = "true"

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers


def report(**row):
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps({"peer": "tokenizers", "version": tokenizers.__version__, "threads": args.threads, **row,
                      "peak_rss_mb": peak}))


size = os.path.getsize(args.input) / 1e6
if args.job == "train":
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not args.cased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=args.vocab_size, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False)
    start = time.perf_counter()
    tokenizer.train([args.input], trainer)
    seconds = time.perf_counter() - start
    if args.out:
        tokenizer.save(args.out)
    report(job="train", megabytes=round(size, 1), seconds=round(seconds, 3), mb_per_second=round(size / seconds, 2),
           vocab_size=tokenizer.get_vocab_size())
else:
    tokenizer = Tokenizer.from_file(args.tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with open(args.input, encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip("\n") for line in file if line.strip()]
    size = sum(len(line.encode()) for line in lines) / 1e6
    for name in ("encode_batch", "encode_batch_fast"):
        encode, seconds, tokens = getattr(tokenizer, name), [], 0
        for _ in range(args.runs):
            start, tokens = time.perf_counter(), 0
            for at in range(0, len(lines), args.batch):
                tokens += sum(map(len, encode(lines[at:at + args.batch])))
            seconds.append(time.perf_counter() - start)
        middle = statistics.median(seconds)
        report(job=name, megabytes=round(size, 1), seconds=round(middle, 3), mb_per_second=round(size / middle, 2),
               tokens_per_second=round(tokens / middle))
