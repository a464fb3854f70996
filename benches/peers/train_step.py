#!/usr/bin/env python3
"""The time of one BERT training step in PyTorch: transformers' BertForMaskedLM, random weights and tokens, on the CPU.

    train_step.py --model base|mini --mode f32|f32-compile|bf16|bf16-compile [--steps 6] [--warmup 2] [--threads 2]

Forward with dropout 0.1 and the masked-LM loss (15 % of the positions; transformers projects all of them), backward, clipping to
1.0 by global norm, fused AdamW. Attention is `sdpa`. bf16 is autocast over f32 weights, as people train with it. Prints one
JSON line: medians over the steps after the warm-up (compilation falls into the warm-up), peak resident memory, and the
resident memory after the imports alone, since that part depends on the torch build. `processor_share` is processor time over
wall time × threads: well below 1 means that other work had the cores, and that the figures say little.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", choices=["base", "mini"], required=True)
parser.add_argument("--mode", choices=["f32", "f32-compile", "bf16", "bf16-compile"], required=True)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--warmup", type=int, default=2)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

# Some machines force an old OpenBLAS kernel; it must not slow a peer down.
os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)
os.environ["OMP_NUM_THREADS"] = str(args.threads)
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
import transformers

SIZES = {  # vocabulary, hidden, layers, heads, intermediate; sequences × length
    "base": ((30522, 768, 12, 12, 3072), (8, 128)),
    "mini": ((8192, 256, 4, 4, 1024), (64, 128)),
}


def rss_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    imported = rss_mb()
    (vocab, hidden, layers, heads, intermediate), (sequences, length) = SIZES[args.model]
    config = transformers.BertConfig(
        vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=intermediate, max_position_embeddings=512, hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1, attn_implementation="sdpa",
    )
    model = transformers.BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    forward = torch.compile(model) if args.mode.endswith("compile") else model

    ids = torch.randint(5, vocab, (sequences, length))
    masked = torch.rand(ids.shape) < 0.15
    labels = torch.where(masked, ids, -100)
    ids = torch.where(masked & (torch.rand(ids.shape) < 0.8), 4, ids)

    times, losses, processor = [], [], 0.0
    for index in range(args.warmup + args.steps):
        if index == args.warmup:
            processor = time.process_time()
        start = time.perf_counter()
        autocast = torch.autocast("cpu", torch.bfloat16) if args.mode.startswith("bf16") else contextlib.nullcontext()
        with autocast:
            loss = forward(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        times.append(time.perf_counter() - start)
    share = (time.process_time() - processor) / (args.threads * sum(times[args.warmup:]))
    assert all(loss == loss for loss in losses) and losses[-1] < losses[0], losses
    step = statistics.median(times[args.warmup:])
    print(json.dumps({
        "peer": "torch", "version": torch.__version__, "model": args.model, "mode": args.mode, "threads": args.threads,
        "step_seconds": round(step, 4), "fastest_step_seconds": round(min(times[args.warmup:]), 4),
        "tokens_per_second": round(sequences * length / step, 1), "peak_rss_mb": round(rss_mb()),
        "import_rss_mb": round(imported),
        "processor_share": round(share, 2), "first_loss": round(losses[0], 4), "last_loss": round(losses[-1], 4),
    }), flush=True)


main()
