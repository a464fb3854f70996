#!/usr/bin/env python3
"""A BERT training step on a GPU: PyTorch (eager, and torch.compile; SDPA attention) and Cloze in turn, on the same shapes, in one run.

    gpu.py --cloze target/release/cloze [--models base,small] [--lengths 128,512] [--tokens 65536] [--rounds 3] [--steps 10]

Forward with dropout 0.1 and the masked-LM loss (15 % of the positions; transformers projects all of them, Cloze the masked ones), backward, clipping
to 1.0 by global norm, fused AdamW; bf16 (autocast over f32 weights in PyTorch). `mix`: lengths drawn from a log-normal distribution (median 32, 4 to 512),
for PyTorch sorted and padded in batches; tokens are counted without padding. Cloze has no such bench of its own yet, so `mix` has the peers' side alone.
Prints one JSON line for each (model, shape, engine): median seconds a step over the rounds, real tokens a second, peak memory of the device.
This script has never run on a GPU. `--device cpu` runs it anywhere, slowly, to see that it works.
"""

import argparse
import json
import math
import statistics
import subprocess
import time

import numpy as np
import torch
import transformers

SIZES = {"base": (30522, 768, 12, 12, 3072), "small": (8192, 512, 4, 8, 2048), "tiny": (8192, 128, 2, 2, 512)}


def mix(count):
    rng = np.random.default_rng(7)
    return sorted(np.clip(np.round(np.exp(rng.normal(math.log(32), 0.85, count))), 4, 512).astype(int).tolist())


class Torch:
    """BertForMaskedLM with its optimizer."""

    def __init__(self, size, compiled, device):
        vocab, hidden, layers, heads, intermediate = SIZES[size]
        config = transformers.BertConfig(
            vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=intermediate,
            max_position_embeddings=512, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, attn_implementation="sdpa",
        )
        torch.manual_seed(0)
        self.device, self.vocab = device, vocab
        self.model = transformers.BertForMaskedLM(config).train().to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
        self.forward = torch.compile(self.model) if compiled else self.model

    def batch(self, lengths):
        longest = max(lengths)
        ids = torch.randint(5, self.vocab, (len(lengths), longest))
        mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
        labels = torch.where(mask & (torch.rand(ids.shape) < 0.15), ids, -100)
        whole = bool(mask.all())
        return [t.to(self.device) for t in (ids, labels)] + [None if whole else mask.to(self.device)]

    def step(self, batches):
        for ids, labels, mask in batches:
            with torch.autocast(self.device, dtype=torch.bfloat16):
                loss = self.forward(input_ids=ids, attention_mask=mask, labels=labels).loss
            (loss / len(batches)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def seconds(self, batches, steps):
        wait = torch.cuda.synchronize if self.device == "cuda" else lambda: None
        for _ in range(3):
            self.step(batches)
        wait()
        begin = time.perf_counter()
        for _ in range(steps):
            self.step(batches)
        wait()
        return (time.perf_counter() - begin) / steps


def cloze(args, size, length, sequences):
    command = [args.cloze, "bench", "train-step", "--device", args.device, "--model", size, "--length", str(length), "--sequences", str(sequences),
               "--precision", "bf16", "--steps", str(args.steps), "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout)["step_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cloze")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--models", default="base,small")
    parser.add_argument("--lengths", default="128,512")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--engines", default="compile,eager,cloze")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    for size in args.models.split(","):
        shapes = [(f"length {n}", [int(n)] * (args.tokens // int(n))) for n in args.lengths.split(",")]
        shapes.append(("mix", mix(max(args.tokens // 43, 8))))
        for shape, lengths in shapes:
            # Sorted texts, as many to a batch as fit the tokens of a batch of even length.
            room = max(args.tokens // 4, max(lengths))
            groups = [[]]
            for n in lengths if shape == "mix" else []:
                if groups[-1] and (len(groups[-1]) + 1) * n > room:
                    groups.append([])
                groups[-1].append(n)
            groups = groups if shape == "mix" else [lengths]
            times = {}
            for _ in range(args.rounds):
                for engine in args.engines.split(","):
                    if engine == "cloze":
                        if args.cloze and shape != "mix":
                            times.setdefault(engine, []).append((cloze(args, size, lengths[0], len(lengths)), None))
                        continue
                    if args.device == "cuda":
                        torch.cuda.empty_cache()
                        torch.cuda.reset_peak_memory_stats()
                    peer = Torch(size, engine == "compile", args.device)
                    seconds = peer.seconds([peer.batch(g) for g in groups], args.steps)
                    peak = torch.cuda.max_memory_allocated() / 2**20 if args.device == "cuda" else None
                    times.setdefault(engine, []).append((seconds, peak))
                    del peer
            for engine, rounds in times.items():
                seconds = statistics.median(s for s, _ in rounds)
                print(json.dumps({"model": size, "shape": shape, "engine": engine, "seconds": seconds, "tokens_per_second": sum(lengths) / seconds,
                                  "peak_mb": rounds[-1][1]}), flush=True)


if __name__ == "__main__":
    main()
