#!/usr/bin/env python3
"""Fine-tuning beside transformers: the same checkpoint, data and recipe through `transformers.Trainer` and through `cloze finetune`, in turn.

    finetune.py --data FOLDER --model all-MiniLM-L6-v2 --cloze target/release/cloze --work DIR [--tasks sst2,stsb] [--epochs 3]

FOLDER holds cls_en/, pair_en/, ner/, pos/ and qa/ as the names below say. Each side is a process of its own. Both see the same
rows, the same number of epochs, batch size, learning rate, linear schedule with warm-up, weight decay, dropout, clipping, longest input and
seed, look at the dev rows after each epoch and keep the best epoch. transformers runs in f32, its default on a CPU; Cloze in its own default. Time: of
transformers the call of `train`, of Cloze the whole command; beside the clock the seconds that both processors worked, which other programs on the machine change little. Needs torch, transformers, accelerate, scikit-learn, scipy, seqeval, zstandard.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import resource
import shutil
import string
import subprocess
import sys
import time

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # some machines force an old kernel; it must not slow a peer down
    os.environ.pop(name, None)
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# name: task, train, dev, figure, epochs
TASKS = {
    "sst2": ("text-classification", "cls_en/sst2.train.tsv", "cls_en/sst2.dev.tsv", "accuracy", 1),
    "stsb": ("text-classification", "pair_en/stsb.train.tsv", "pair_en/stsb.dev.tsv", "spearman", 3),
    "rte": ("text-classification", "pair_en/rte.train.tsv", "pair_en/rte.dev.tsv", "accuracy", 3),
    "cola": ("text-classification", "cls_en/cola.train.tsv", "cls_en/cola.dev.tsv", "mcc", 3),
    "ag_news": ("text-classification", "cls_en/ag_news.train.tsv", "cls_en/ag_news.test.tsv", "accuracy", 1),
    "wnut17": ("token-classification", "ner/wnut17_en.train.jsonl", "ner/wnut17_en.dev.jsonl", "f1", 3),
    "ud_ewt": ("token-classification", "pos/ud_ewt_en.train.conllu", "pos/ud_ewt_en.dev.conllu", "accuracy", 1),
    "squad": ("question-answering", "qa/squad_en.train.jsonl", None, "f1", 2),
}
HELD_OUT = 800  # SQuAD rows, the last of the file and thereby other paragraphs
FIRST_ROWS = {"sst2": 20_000}  # all 60,000 would take the peer a good quarter of an hour
RATE, BATCH, WARMUP, DECAY = 1e-4, 32, 0.06, 0.01


def prepare(data, work, name):
    """The rows of a task, unpacked, as (train, dev) paths."""
    import zstandard

    _, train, dev, _, _ = TASKS[name]
    paths = []
    for part, source in (("train", train), ("dev", dev)):
        if source is None:
            continue
        path = work / f"{name}.{part}{pathlib.Path(source).suffix}"
        if not path.exists():
            with open(data / (source + ".zst"), "rb") as packed:
                lines = zstandard.ZstdDecompressor().stream_reader(packed).read().splitlines(keepends=True)
            if part == "train" and name in FIRST_ROWS:
                lines = lines[: 1 + FIRST_ROWS[name]]
            path.write_bytes(b"".join(lines))
        paths.append(path)
    if dev is None:
        lines = paths[0].read_text(encoding="utf-8").splitlines(keepends=True)
        cut = len(lines) - HELD_OUT
        while json.loads(lines[cut])["context"] == json.loads(lines[cut - 1])["context"]:
            cut += 1  # a paragraph is on one side alone
        paths = [work / f"{name}.fit.jsonl", work / f"{name}.dev.jsonl"]
        paths[0].write_text("".join(lines[:cut]), encoding="utf-8")
        paths[1].write_text("".join(lines[cut:]), encoding="utf-8")
    return paths


def rows(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line]
    if path.suffix == ".tsv":
        head, *lines = text.split("\n")
        return [dict(zip(head.split("\t"), line.split("\t"))) for line in lines if line]
    found, words, tags = [], [], []
    for line in text.split("\n"):
        cells = line.split("\t")
        if not line and words:
            found.append({"tokens": words, "tags": tags})
            words, tags = [], []
        elif cells[0].isdigit():  # no ranges, no empty nodes
            words.append(cells[1])
            tags.append(cells[3])
    return found


# --------------------------------------------------------------------------------------------------- transformers' side


def trainer(name, train, dev, out, args):
    """Fine-tune with transformers; the figures of the best epoch, and the seconds of training."""
    import numpy as np
    import torch
    import transformers
    from transformers import Trainer, TrainingArguments

    torch.set_num_threads(args.threads)
    transformers.set_seed(args.seed)
    task, _, _, figure, _ = TASKS[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    train, dev = rows(train), rows(dev)
    longest = 384 if task == "question-answering" else 128
    load = dict(num_labels=1)
    if task == "text-classification":
        key = "score" if name == "stsb" else "label"
        first = "text" if "text" in train[0] else "text_a"
        labels = sorted({r[key] for r in train})
        value = float if name == "stsb" else labels.index

        def encode(batch):
            pair = [r["text_b"] for r in batch] if first == "text_a" else None
            coded = tokenizer([r[first] for r in batch], pair, truncation=True, max_length=longest)
            return [{**{k: v[i] for k, v in coded.items()}, "labels": value(r[key])} for i, r in enumerate(batch)]

        kind = transformers.AutoModelForSequenceClassification
        load = dict(num_labels=1 if name == "stsb" else len(labels))

        def measure(predicted):
            from scipy.stats import spearmanr
            from sklearn.metrics import accuracy_score, matthews_corrcoef

            logits, truth = predicted.predictions, predicted.label_ids
            if name == "stsb":
                return {"spearman": spearmanr(logits[:, 0], truth).statistic}
            chosen = logits.argmax(-1)
            return {"accuracy": accuracy_score(truth, chosen), "mcc": matthews_corrcoef(truth, chosen)}

        collate = transformers.DataCollatorWithPadding(tokenizer)
        train_set, dev_set = encode(train), encode(dev)
    elif task == "token-classification":
        labels = sorted({t for r in train + dev for t in r["tags"]})

        def encode(batch):
            coded = tokenizer([r["tokens"] for r in batch], truncation=True, is_split_into_words=True, max_length=longest)
            found = []
            for i, r in enumerate(batch):
                before, marks = None, []
                for word in coded.word_ids(i):
                    marks.append(-100 if word is None or word == before else labels.index(r["tags"][word]))
                    before = word
                found.append({**{k: v[i] for k, v in coded.items()}, "labels": marks})
            return found

        kind = transformers.AutoModelForTokenClassification
        load = dict(num_labels=len(labels))

        def measure(predicted):
            from seqeval.metrics import f1_score

            chosen = predicted.predictions.argmax(-1)
            said, true = [], []
            for row, truth in zip(chosen, predicted.label_ids):
                said.append([labels[c] for c, t in zip(row, truth) if t != -100])
                true.append([labels[t] for t in truth if t != -100])
            pairs = [(s, t) for a, b in zip(said, true) for s, t in zip(a, b)]
            if figure == "accuracy":
                return {"accuracy": sum(s == t for s, t in pairs) / len(pairs)}
            return {"f1": f1_score(true, said)}

        collate = transformers.DataCollatorForTokenClassification(tokenizer)
        train_set, dev_set = encode(train), encode(dev)
    else:
        kind, load = transformers.AutoModelForQuestionAnswering, {}

        def encode(batch, labelled):
            coded = tokenizer(
                [r["question"] for r in batch],
                [r["context"] for r in batch],
                truncation="only_second",
                max_length=longest,
                stride=128,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            found = []
            for i, which in enumerate(coded["overflow_to_sample_mapping"]):
                context = [s == 1 for s in coded.sequence_ids(i)]
                offsets = coded["offset_mapping"][i]
                item = {k: coded[k][i] for k in ("input_ids", "token_type_ids", "attention_mask")}
                if labelled:
                    answer = batch[which]["answers"][0]
                    a = answer["start"] if "start" in answer else answer["answer_start"]
                    b = a + len(answer["text"])
                    start = [t for t, (x, y) in enumerate(offsets) if context[t] and x <= a < y]
                    end = [t for t, (x, y) in enumerate(offsets) if context[t] and x < b <= y]
                    item["start_positions"], item["end_positions"] = (start[0], end[0]) if start and end else (0, 0)
                else:
                    item["which"] = which
                    item["places"] = [o if c else None for o, c in zip(offsets, context)]
                found.append(item)
            return found

        train_set, dev_items = encode(train, True), encode(dev, False)
        dev_set = [{k: item[k] for k in ("input_ids", "token_type_ids", "attention_mask")} | {"start_positions": 0, "end_positions": 0} for item in dev_items]

        def measure(predicted):
            starts, ends = predicted.predictions[:2]
            best = collections.defaultdict(lambda: (-1e9, ""))
            for item, s, e in zip(dev_items, starts, ends):
                places = item["places"]
                for a in np.argsort(-s[: len(places)])[:20]:
                    for b in np.argsort(-e[: len(places)])[:20]:
                        if places[a] and places[b] and a <= b < a + 30 and s[a] + e[b] > best[item["which"]][0]:
                            text = dev[item["which"]]["context"][places[a][0] : places[b][1]]
                            best[item["which"]] = (s[a] + e[b], text)
            exact, overlap = 0.0, 0.0
            for i, row in enumerate(dev):
                said = squad_words(best[i][1])
                exact += max(said == squad_words(a["text"]) for a in row["answers"])
                overlap += max(squad_f1(said, squad_words(a["text"])) for a in row["answers"])
            return {"exact_match": exact / len(dev), "f1": overlap / len(dev)}

        collate = transformers.DataCollatorWithPadding(tokenizer)
    model = kind.from_pretrained(args.model, **load)
    settings = TrainingArguments(
        output_dir=str(out),
        learning_rate=RATE,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=64,
        weight_decay=DECAY,
        warmup_steps=int(WARMUP * args.epochs * -(-len(train_set) // BATCH)),
        lr_scheduler_type="linear",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model=figure,
        greater_is_better=True,
        logging_strategy="no",
        report_to="none",
        use_cpu=True,
        seed=args.seed,
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
    run = Trainer(model, settings, data_collator=collate, train_dataset=train_set, eval_dataset=dev_set, compute_metrics=measure)
    begun, worked = time.monotonic(), time.process_time()
    run.train()
    spent = {"seconds": time.monotonic() - begun, "cpu": time.process_time() - worked}
    figures = {k.removeprefix("eval_"): v for k, v in run.evaluate().items()}
    return {k: figures[k] for k in ("accuracy", "mcc", "spearman", "f1", "exact_match") if k in figures} | spent


def squad_words(text):
    """An answer as SQuAD's script compares it."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(said, true):
    shared = sum((collections.Counter(said) & collections.Counter(true)).values())
    return 2 * shared / (len(said) + len(true)) if shared else float(said == true)


# ------------------------------------------------------------------------------------------------------------- our side


def cloze(name, train, dev, out, args):
    """Fine-tune with Cloze."""
    task, _, _, figure, _ = TASKS[name]
    longest = 384 if task == "question-answering" else 128
    keys = {
        "optimizer.lr": RATE,
        "optimizer.weight_decay": DECAY,
        "budget": f"{args.epochs} epochs",
        "batch_size": BATCH,
        "max_length": longest,
        "schedule.kind": "linear",
        "schedule.warmup": WARMUP,
        "dropout": 0.1,
        "metric": figure,
        "seed": args.seed,
    }
    command = [args.cloze, "--threads", str(args.threads), "finetune", "--task", task, "--model", args.model]
    command += ["--train", str(train), "--dev", str(dev), "--out", str(out)]
    command += [word for k, v in keys.items() for word in ("--set", f"{k}={v}")]
    shutil.rmtree(out, ignore_errors=True)
    begun, worked = time.monotonic(), children()
    with open(out.with_name(out.name + ".log"), "w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    spent = {"seconds": time.monotonic() - begun, "cpu": children() - worked}
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    return last["metrics"] | spent


def children():
    """Processor seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cloze", default="target/release/cloze")
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=["transformers"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    given = args.epochs
    found = args.work / "results.json"
    results = json.loads(found.read_text()) if found.exists() else {}
    for name in args.tasks.split(","):
        args.epochs = given or TASKS[name][4]
        train, dev = prepare(args.data, args.work, name)
        if args.side:
            print(json.dumps(trainer(name, train, dev, args.work / f"{name}.hf", args)))
            return
        again = [sys.executable, __file__, *sys.argv[1:], "--tasks", name, "--side", "transformers"]
        if name not in results:
            said = subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[name] = {"transformers": json.loads(said.splitlines()[-1])}
        results[name]["cloze"] = cloze(name, train, dev, args.work / f"{name}.cloze", args)
        results[name]["epochs"] = args.epochs
        found.write_text(json.dumps(results, indent=1))
        print(name, json.dumps(results[name]), flush=True)
    print("\n| data | epochs | figure | transformers | Cloze | seconds, transformers | seconds, Cloze | times faster | in processor time |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, sides in results.items():
        theirs, ours = sides["transformers"], sides["cloze"]
        for figure in ["exact_match", "f1"] if name == "squad" else [TASKS[name][3]]:
            print(
                f"| {name} | {sides['epochs']} | {figure} | {100 * theirs[figure]:.1f} | {100 * ours[figure]:.1f} | {theirs['seconds']:.0f} | {ours['seconds']:.0f} "
                f"| {theirs['seconds'] / ours['seconds']:.1f} | {theirs['cpu'] / ours['cpu']:.1f} |"
            )


if __name__ == "__main__":
    main()
