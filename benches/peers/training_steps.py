#!/usr/bin/env python3
"""Is it the same training? Step by step beside transformers, from the same weights on the same rows, in f32.

    training_steps.py --rows cola.train.tsv --model all-MiniLM-L6-v2 --cloze target/release/cloze --work DIR

1. Without dropout, all rows in one batch (so that their order means nothing), a constant learning rate: loss and norm of the gradient of every step.
2. With dropout at a learning rate of nothing, after six such steps: the mean loss and the mean norm over many draws, which must agree within their standard errors.
3. With --dev: a whole fine-tuning, in which both see the rows in the same order (Cloze's, computed here anew), a linear schedule with warm-up, batches of 32; without
   dropout, and with it: the loss and the figures on the dev rows. What order and first weights do to a run is then the same on both sides.

Differences between figures of single runs, as finetune.py makes them, are then those of order and draws. Needs torch, transformers, accelerate, scikit-learn.
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


def philox(counter, key):
    """Philox4x32-10 (Salmon et al. 2011)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def shuffled(seed, epoch, count):
    """The order in which Cloze visits rows: `Permutation` of crates/tensor/src/random.rs."""
    mixed = philox([seed, 0, 4, 0], [0x436C6F7A, 0x65000001])  # 4: the stream of shuffles
    high = philox([epoch, 0, 0, 1], mixed[:2])
    key = [mixed[2] ^ high[2], mixed[3] ^ high[3]]
    draw = lambda i: philox([(i >> 2) & 0xFFFFFFFF, i >> 34, high[0], high[1]], key)[i & 3]
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    rounds = [[draw(r << 40 | x) & mask for x in range(mask + 1)] for r in range(4)]
    order = []
    for x in range(count):
        while True:
            left, right = x >> half, x & mask
            for table in rounds:
                left, right = right, left ^ table[right]
            x = left << half | right
            if x < count:
                break
        order.append(x)
    assert sorted(order) == list(range(count))
    return order


def whole_run(args, start, tokenizer, load, dropout, seed):
    """Loss, accuracy and MCC on the dev rows after each epoch: (transformers', Cloze's)."""
    from sklearn.metrics import accuracy_score, matthews_corrcoef

    out = args.work / "whole"
    shutil.rmtree(out, ignore_errors=True)
    keys = {"budget": f"{args.epochs} epochs", "batch_size": ROWS, "precision": "f32", "schedule.kind": "linear", "schedule.warmup": 0.06, "dropout": dropout, "optimizer.lr": RATE, "optimizer.weight_decay": DECAY, "seed": seed, "max_length": 128}
    command = [args.cloze, "finetune", "--task", "text-classification", "--model", start, "--train", args.rows, "--dev", args.dev, "--out", out, "--quiet"]
    subprocess.run([str(c) for c in command] + [w for k, v in keys.items() for w in ("--set", f"{k}={v}")], check=True, stdout=subprocess.DEVNULL)
    found = [json.loads(line) for line in open(out / "log.jsonl")]
    ours = [tuple(e["metrics"][k] for k in ("loss", "accuracy", "mcc")) for e in found if e["event"].startswith("eval")][: args.epochs]

    train, dev = ([line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]] for path in (args.rows, args.dev))
    torch.manual_seed(seed)
    model = load(start, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    optimizer = adamw(model)
    steps = -(-len(train) // ROWS) * args.epochs
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, int(0.06 * steps), steps)

    def encode(rows):
        coded = tokenizer([r[0] for r in rows], padding=True, truncation=True, max_length=128, return_tensors="pt")
        return {**coded, "labels": torch.tensor([int(r[1]) for r in rows])}

    theirs = []
    for epoch in range(args.epochs):
        model.train()
        order = shuffled(seed, epoch, len(train))
        for at in range(0, len(train), ROWS):
            optimizer.zero_grad()
            model(**encode([train[i] for i in order[at : at + ROWS]])).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        model.eval()
        loss, said = 0.0, []
        with torch.no_grad():
            for at in range(0, len(dev), 64):
                answer = model(**encode(dev[at : at + 64]))
                loss += answer.loss.item() * len(dev[at : at + 64])
                said += answer.logits.argmax(-1).tolist()
        true = [int(r[1]) for r in dev]
        theirs.append((loss / len(dev), accuracy_score(true, said), matthews_corrcoef(true, said)))
    return theirs, ours


def adamw(model):
    """The rule of transformers.Trainer: AdamW, no decay of biases and norms."""
    decayed = [p for n, p in model.named_parameters() if not ("bias" in n or "LayerNorm" in n)]
    others = [p for n, p in model.named_parameters() if "bias" in n or "LayerNorm" in n]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}], lr=RATE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=pathlib.Path, required=True, help="tsv: text, and a label of 0 or 1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--cloze", default="target/release/cloze")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--draws", type=int, default=120)
    parser.add_argument("--dev", type=pathlib.Path, help="rows of the same form: part 3, whole runs")
    parser.add_argument("--epochs", type=int, default=1, help="of part 3")
    parser.add_argument("--seeds", type=int, default=2, help="of part 3")
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

    # As transformers.Trainer has it, the norm of the gradient is clipped at 1.
    optimizer = adamw(model)
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

    if args.dev:
        print("\n| dropout | seed | epoch | dev loss, transformers | Cloze | accuracy, transformers | Cloze | MCC, transformers | Cloze |\n|---|---|---|---|---|---|---|---|---|")
        for dropout, seed in [(0.0, 0)] + [(0.1, seed) for seed in range(args.seeds)]:
            for epoch, (a, b) in enumerate(zip(*whole_run(args, start, tokenizer, load, dropout, seed))):
                cells = [f"{a[0]:.4f} | {b[0]:.4f}", f"{a[1]:.3f} | {b[1]:.3f}", f"{a[2]:.3f} | {b[2]:.3f}"]
                print(f"| {dropout} | {seed} | {epoch + 1} | {' | '.join(cells)} |", flush=True)


main()
