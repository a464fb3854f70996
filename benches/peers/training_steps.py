#!/usr/bin/env python3
"""Is it the same training? Step by step beside transformers, from the same weights on the same rows, in f32.

    training_steps.py --rows cola.train.tsv --model all-MiniLM-L6-v2 --cloze target/release/cloze --work DIR

1. Without dropout, all rows in one batch (so that their order means nothing), a constant learning rate: loss and norm of the gradient of every step.
2. With dropout at a learning rate of nothing, after six such steps: the mean loss and the mean norm over many draws, which must agree within their standard errors.

Differences between figures of single runs, as finetune.py makes them, are then those of order and draws. Needs torch, transformers, accelerate.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)
import torch  # noqa: E402
import transformers  # noqa: E402

RATE, DECAY, ROWS = 1e-4, 0.01, 32


def cloze(args, model, out, steps, **keys):
    """Loss and norm of the gradient of each step."""
    shutil.rmtree(out, ignore_errors=True)
    keys = {"budget": f"{steps} epochs", "evaluate": f"{steps} epochs", "batch_size": ROWS, "precision": "f32", "schedule.kind": "constant", "schedule.warmup": 0, **keys}
    command = [args.cloze, "finetune", "--task", "text-classification", "--model", model, "--train", args.work / "rows.tsv", "--dev", args.work / "rows.tsv", "--out", out, "--quiet"]
    subprocess.run([str(c) for c in command] + [w for k, v in keys.items() for w in ("--set", f"{k}={v}")], check=True, stdout=subprocess.DEVNULL)
    events = [json.loads(line) for line in open(out / "log.jsonl")]
    return [(e["loss"], e["grad_norm"]) for e in events if e["event"] == "step"]


def batch(args, tokenizer):
    rows = [line.rstrip("\n").split("\t") for line in open(args.work / "rows.tsv", encoding="utf-8")][1:]
    coded = tokenizer([r[0] for r in rows], padding=True, truncation=True, max_length=128, return_tensors="pt")
    return {**coded, "labels": torch.tensor([int(r[1]) for r in rows])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=pathlib.Path, required=True, help="tsv: text, and a label of 0 or 1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--cloze", default="target/release/cloze")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--draws", type=int, default=120)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    lines = args.rows.read_text(encoding="utf-8").splitlines()[1:]
    chosen = [line for label in "01" for line in [x for x in lines if x.endswith("\t" + label)][: ROWS // 2]]
    (args.work / "rows.tsv").write_text("text\tlabel\n" + "\n".join(chosen) + "\n", encoding="utf-8")

    load = transformers.AutoModelForSequenceClassification.from_pretrained
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    transformers.set_seed(0)
    model = load(args.model, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, id2label={0: "0", 1: "1"}, label2id={"0": 0, "1": 1})
    start = args.work / "start"
    model.save_pretrained(start)
    tokenizer.save_pretrained(start)
    data = batch(args, tokenizer)

    # The rule of transformers.Trainer: AdamW, no decay of biases and norms, the norm of the gradient clipped at 1.
    decayed = [p for n, p in model.named_parameters() if not ("bias" in n or "LayerNorm" in n)]
    others = [p for n, p in model.named_parameters() if "bias" in n or "LayerNorm" in n]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}], lr=RATE)
    theirs = []
    for _ in range(args.steps):
        optimizer.zero_grad()
        loss = model(**data).loss
        loss.backward()
        theirs.append((loss.item(), torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()))
        optimizer.step()
    ours = cloze(args, start, args.work / "steps", args.steps, dropout=0.0, **{"optimizer.lr": RATE, "optimizer.weight_decay": DECAY})
    print("| step | loss, transformers | Cloze | norm of the gradient, transformers | Cloze |\n|---|---|---|---|---|")
    for i, (a, b) in enumerate(zip(theirs, ours)):
        if i < 3 or (i + 1) % 10 == 0:
            print(f"| {i + 1} | {a[0]:.6f} | {b[0]:.6f} | {a[1]:.5f} | {b[1]:.5f} |")
    print(f"\nLargest difference of the loss in {args.steps} steps: {max(abs(a[0] - b[0]) for a, b in zip(theirs, ours)):.1e}\n")

    # Some steps on, the head is no longer near zero, and the loss not yet either.
    cloze(args, start, args.work / "some", 6, dropout=0.0, **{"optimizer.lr": RATE, "optimizer.weight_decay": DECAY})
    trained = args.work / "some" / "model"
    noisy = load(trained, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, classifier_dropout=0.1).train()
    theirs = []
    for _ in range(args.draws):
        noisy.zero_grad()
        loss = noisy(**data).loss
        loss.backward()
        theirs.append((loss.item(), torch.cat([p.grad.flatten() for p in noisy.parameters() if p.grad is not None]).norm().item()))
    ours = cloze(args, trained, args.work / "draws", args.draws, dropout=0.1, **{"optimizer.lr": 1e-12, "optimizer.weight_decay": 0.0})
    print("| dropout 0.1 | mean loss | mean norm of the gradient |\n|---|---|---|")
    for who, found in (("transformers", theirs), ("Cloze", ours)):
        cells = [f"{statistics.mean(v):.4f} ± {statistics.stdev(v) / len(v) ** 0.5:.4f}" for v in zip(*found)]
        print(f"| {who} | {' | '.join(cells)} |")


main()
