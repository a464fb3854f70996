#!/usr/bin/env python3
"""Inference on the CPU: each peer and Cloze in turn on the same token ids, in one run; writes a Markdown report.

    inference.py prepare  --work DIR [--minilm FOLDER]      # the models in every engine's own form (some minutes)
    inference.py run      --work DIR --cloze target/release/cloze [--rounds 5] [--models base,minilm] [--precisions f32,bf16,int8]
    inference.py report   --work DIR [--out docs/benchmarks.md]

The body of BERT runs (12 × 768 with random weights; all-MiniLM-L6-v2 with its own, where --minilm names its folder), ids in,
last hidden states out. Engines: PyTorch (sdpa, inference mode), ONNX Runtime (transformer fusions; int8 by its dynamic quantisation),
OpenVINO (int8 by NNCF, calibrated on the texts themselves), CTranslate2, Cloze. Each is a process of its own that waits while another works.

Cases: one text of 16, 128, 512 tokens; 32 × 128; `mix`: 256 texts of log-normal lengths (median 32, 4 to 512) all known at once, for
the peers one by one and sorted by length in padded batches of 32 (the better counts), for Cloze as one list; `arrival`: the same texts in
batches of 32 as they come, as a server without its own batching sees them. The processor time of a round that other work disturbed shows in the spread.
"""

import argparse
import json
import math
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # some machines force an old kernel; it must not slow a peer down
    os.environ.pop(name, None)
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np

ENGINES = {"f32": ["torch", "ort", "ov", "ct2", "cloze"], "bf16": ["torch", "ov", "ct2", "cloze"], "int8": ["ort", "ov", "ct2", "cloze"]}
BATCH = 32


def texts(vocab=30522):
    """The token ids of every case; the special ids and lengths are the same in every run."""
    rng = np.random.default_rng(7)
    ids = lambda n: [101] + [int(x) for x in rng.integers(1000, vocab, n - 2)] + [102]
    lengths = np.clip(np.round(np.exp(rng.normal(math.log(32), 0.85, 256))), 4, 512).astype(int)
    mix = [ids(int(n)) for n in lengths]
    return {
        "1x16": [[ids(16)]],
        "1x128": [[ids(128)]],
        "1x512": [[ids(512)]],
        "32x128": [[ids(128) for _ in range(BATCH)]],
        "mix": [mix],
        "arrival": [mix[i : i + BATCH] for i in range(0, len(mix), BATCH)],
    }


def batches(cases, name):
    """What a padding engine runs for a case: `mix-single` and `mix-sorted` are its two arrangements of `mix`."""
    if name == "mix-single":
        return [[t] for t in cases["mix"][0]]
    if name == "mix-sorted":
        ordered = sorted(cases["mix"][0], key=len)
        return [ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)]
    return cases[name]


def padded(batch):
    longest = max(map(len, batch))
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    mask = np.zeros((len(batch), longest), dtype=np.int64)
    for row, text in enumerate(batch):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask


def mean(hidden, mask):
    weights = mask[:, :, None].astype(np.float32)
    return (hidden.astype(np.float32) * weights).sum(1) / weights.sum(1)


# ---------------------------------------------------------------------------------------------------------- the engines


def load(engine, precision, folder, threads):
    """A function from a batch of token ids to (last hidden states [B, T, H] as numpy, mask)."""
    if engine == "torch":
        import torch
        import transformers

        torch.set_num_threads(threads)
        model = transformers.BertModel.from_pretrained(folder / "hf", add_pooling_layer=False, attn_implementation="sdpa").eval()
        model = model.to(torch.bfloat16 if precision == "bf16" else torch.float32)
        def run(batch):
            ids, mask = padded(batch)
            with torch.inference_mode():
                whole = mask.all()
                hidden = model(input_ids=torch.from_numpy(ids), attention_mask=None if whole else torch.from_numpy(mask)).last_hidden_state
            return hidden.float().numpy(), mask

        return run
    if engine == "ort":
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = ort.InferenceSession(str(folder / f"model-{precision}.onnx"), options, providers=["CPUExecutionProvider"])

        def run(batch):
            ids, mask = padded(batch)
            return session.run(None, {"input_ids": ids, "attention_mask": mask})[0], mask

        return run
    if engine == "ov":
        import openvino as ov

        core = ov.Core()
        file = folder / ("ov-int8.xml" if precision == "int8" else "ov.xml")
        hints = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                 "INFERENCE_PRECISION_HINT": "f32" if precision == "f32" else "bf16"}
        compiled = core.compile_model(core.read_model(file), "CPU", hints)
        request = compiled.create_infer_request()

        def run(batch):
            ids, mask = padded(batch)
            return request.infer({"input_ids": ids, "attention_mask": mask})[compiled.output(0)], mask

        return run
    if engine == "ct2":
        import ctranslate2

        kind = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}[precision]
        encoder = ctranslate2.Encoder(str(folder / "ct2"), device="cpu", intra_threads=threads, inter_threads=1, compute_type=kind)

        def run(batch):
            hidden = encoder.forward_batch(batch).last_hidden_state
            lengths = np.array([len(t) for t in batch])
            values = np.array(hidden) if precision != "bf16" else np.array(hidden.to(ctranslate2.DataType.float32))
            return values, (np.arange(values.shape[1])[None] < lengths[:, None]).astype(np.int64)

        return run
    raise SystemExit(f"no engine {engine}")


def rss_mb():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def worker(args):
    """Answer names of cases on standard input with seconds on standard output."""
    begin = time.perf_counter()
    run = load(args.engine, args.precision, pathlib.Path(args.work) / args.model, args.threads)
    cases = json.loads((pathlib.Path(args.work) / "cases.json").read_text())
    loading = time.perf_counter() - begin
    for line in sys.stdin:
        command, name = line.split()
        work = batches(cases, name)
        start = time.perf_counter()
        results = [run(batch) for batch in work]
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "peak_rss_mb": rss_mb(), "loading": loading}
        if command == "means":
            answer["means"] = [row.tolist() for hidden, mask in results for row in mean(hidden, mask)]
        print(json.dumps(answer), flush=True)


class Engine:
    """A worker process, or Cloze's own."""

    def __init__(self, args, engine, precision, model):
        self.cloze = engine == "cloze"
        work = pathlib.Path(args.work)
        if self.cloze:
            command = [args.cloze, "bench", "forward", "--model", str(work / model / "hf"), "--cases", str(work / "cases.json"), "--precision", precision,
                       "--drive", "--threads", str(args.threads)]
        else:
            command = [sys.executable, __file__, "worker", "--work", args.work, "--engine", engine, "--precision", precision, "--model", model,
                       "--threads", str(args.threads)]
        environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
        self.log = open(work / f"{model}-{precision}-{engine}.log", "w")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)

    def ask(self, name, command="time"):
        self.process.stdin.write(f"{name}\n" if self.cloze else f"{command} {name}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the engine ended; see its log")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def names(engine):
    """(case, what the engine runs for it)."""
    fixed = [(n, n) for n in ("1x16", "1x128", "1x512", "32x128", "arrival")]
    return fixed + ([("mix", "mix")] if engine == "cloze" else [("mix", "mix-single"), ("mix", "mix-sorted")])


def cosine(a, b):
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def run(args):
    work = pathlib.Path(args.work)
    # What is measured now takes the place of an earlier run's figures for the same engines.
    path = work / "results.jsonl"
    chosen = lambda row: row["model"] in args.models.split(",") and row["precision"] in args.precisions.split(",") and (not args.engines or row["engine"] in args.engines.split(","))
    kept = [line for line in open(path) if not chosen(json.loads(line))] if path.exists() else []
    path.write_text("".join(kept))
    lines = open(path, "a")
    for model in args.models.split(","):
        for precision in args.precisions.split(","):
            engines = {}
            for name in ENGINES[precision]:
                if args.engines and name not in args.engines.split(","):
                    continue
                try:
                    engine = Engine(args, name, precision, model)
                    engine.ask("32x128")
                    memory = engine.ask("32x128")["peak_rss_mb"]
                    engines[name] = engine
                    print(json.dumps({"model": model, "precision": precision, "engine": name, "case": "memory", "value": memory}), file=lines, flush=True)
                    engine.ask("1x16")
                except Exception as error:
                    print(f"{model} {precision} {name}: {error}", file=sys.stderr)
            for round_ in range(args.rounds):
                for name, engine in engines.items():
                    for case, what in names(name):
                        if case == "arrival" and round_ > 0 and name != "cloze":
                            continue  # minutes of padding: once is enough
                        repeats = 9 if case == "1x16" else 4 if case == "1x128" else 2 if case == "1x512" else 1
                        seconds = statistics.median(engine.ask(what)["seconds"] for _ in range(repeats))
                        row = {"model": model, "precision": precision, "engine": name, "case": case, "what": what, "value": seconds}
                        print(json.dumps(row), file=lines, flush=True)
                print(f"{model} {precision} round {round_ + 1} of {args.rounds}", file=sys.stderr)
            # Do the outputs agree? The mean hidden state of every text of the mix against PyTorch in f32.
            try:
                reference = Engine(args, "torch", "f32", model)
                truth = reference.ask("mix-single", "means")["means"]
                reference.close()
                for name, engine in engines.items():
                    if name == "cloze":
                        dump = work / "means.json"
                        command = [args.cloze, "bench", "forward", "--model", str(work / model / "hf"), "--cases", str(work / "mix.json"), "--precision", precision,
                                   "--runs", "1", "--dump", str(dump), "--quiet"]
                        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                        means = json.loads(dump.read_text())["mix"]
                    else:
                        means = engine.ask("mix-single", "means")["means"]
                    worst = float(cosine(means, truth).min())
                    print(json.dumps({"model": model, "precision": precision, "engine": name, "case": "cosine", "value": worst}), file=lines, flush=True)
            except Exception as error:
                print(f"{model} {precision} cosine: {error}", file=sys.stderr)
            for engine in engines.values():
                engine.close()


def prepare(args):
    import torch
    import transformers

    work = pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    cases = texts()
    (work / "cases.json").write_text(json.dumps(cases))
    (work / "mix.json").write_text(json.dumps({"mix": cases["mix"]}))
    (work / "lengths.json").write_text(json.dumps([len(t) for t in cases["mix"][0]]))
    sources = {"base": None}
    if args.minilm:
        sources["minilm"] = args.minilm
    for name, source in sources.items():
        folder = work / name
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        if source:
            model = transformers.BertModel.from_pretrained(source, add_pooling_layer=False, attn_implementation="eager").eval()
        else:
            model = transformers.BertModel(transformers.BertConfig(attn_implementation="eager"), add_pooling_layer=False).eval()
        model.save_pretrained(folder / "hf")
        vocabulary = pathlib.Path(source or "", "vocab.txt")
        pieces = vocabulary.read_text().split("\n")[:30522] if source and vocabulary.exists() else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(30517)]
        (folder / "hf" / "vocab.txt").write_text("\n".join(pieces) + "\n")
        export(model, folder)
        for step in (quantize_ort, convert_ov, convert_ct2):
            try:
                step(model, folder, cases)
            except Exception as error:
                print(f"{name}: {step.__name__}: {error!r}", file=sys.stderr)
        print(f"{name}: ready in {folder}")


def export(model, folder):
    import torch
    from onnxruntime.transformers.optimizer import optimize_model

    class Body(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    example = torch.randint(1000, 2000, (2, 16)), torch.ones(2, 16, dtype=torch.int64)
    axes = {"input_ids": {0: "b", 1: "t"}, "attention_mask": {0: "b", 1: "t"}, "last_hidden_state": {0: "b", 1: "t"}}
    torch.onnx.export(Body().eval(), example, str(folder / "plain.onnx"), input_names=["input_ids", "attention_mask"],
                      output_names=["last_hidden_state"], dynamic_axes=axes, opset_version=17, dynamo=False)
    config = model.config
    fused = optimize_model(str(folder / "plain.onnx"), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size)
    print("fused:", fused.get_fused_operator_statistics())
    fused.save_model_to_file(str(folder / "model-f32.onnx"))


def quantize_ort(model, folder, cases):
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The fused operators have no shape inference: the weights' type is told.
    quantize_dynamic(str(folder / "model-f32.onnx"), str(folder / "model-int8.onnx"), weight_type=QuantType.QInt8, per_channel=True,
                     extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})


def convert_ov(model, folder, cases):
    import openvino as ov

    plain = ov.convert_model(str(folder / "plain.onnx"))
    ov.save_model(plain, folder / "ov.xml", compress_to_fp16=False)
    import nncf

    rows = [dict(zip(("input_ids", "attention_mask"), padded([t]))) for t in cases["mix"][0][:64]]
    quantized = nncf.quantize(plain, nncf.Dataset(rows), model_type=nncf.ModelType.TRANSFORMER, subset_size=64)
    ov.save_model(quantized, folder / "ov-int8.xml", compress_to_fp16=False)


def convert_ct2(model, folder, cases):
    import ctranslate2

    class Source(ctranslate2.converters.TransformersConverter):
        def load_model(self, model_class, name, **kwargs):
            model = super().load_model(model_class, name, **kwargs)
            model.config.position_embedding_type = "absolute"  # newer transformers have no other and do not say so
            return model

        def load_tokenizer(self, tokenizer_class, model_name_or_path, **kwargs):
            import transformers

            return transformers.BertTokenizerFast(vocab_file=str(folder / "hf" / "vocab.txt"))

    Source(str(folder / "hf")).convert(str(folder / "ct2"), force=True)


# ----------------------------------------------------------------------------------------------------------- the report

CASES = [("32x128", "32 × 128"), ("mix", "mix, best arrangement"), ("arrival", "mix in arrival order"), ("1x16", "one text, 16 tokens"),
         ("1x128", "one text, 128 tokens"), ("1x512", "one text, 512 tokens")]


def report(args):
    import importlib.metadata as metadata

    work = pathlib.Path(args.work)
    rows = [json.loads(line) for line in open(work / "results.jsonl")]
    cases = json.loads((work / "cases.json").read_text())
    tokens = {name: sum(len(t) for b in batch for t in b) for name, batch in cases.items()}
    values = {}
    for row in rows:
        values.setdefault((row["model"], row["precision"], row["engine"], row["case"]), {}).setdefault(row.get("what"), []).append(row["value"])

    def best(model, precision, engine, case):
        """(median seconds, spread) of the engine's better arrangement."""
        arrangements = values.get((model, precision, engine, case))
        if not arrangements:
            return None
        samples = min(arrangements.values(), key=statistics.median)
        middle = statistics.median(samples)
        return middle, (max(samples) - min(samples)) / middle

    out = ["# Inference beside the peers", "",
           "Made by `benches/peers/inference.py` (prepare, run, report): each engine in turn on the same token ids, two threads, medians of the rounds, "
           "± the whole spread. `ratio`: Cloze against the fastest peer of the same precision; above 1 is faster.", ""]
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "transformers", "onnxruntime", "openvino", "ctranslate2", "nncf"))
    out += [f"Machine: {cpu}, {os.cpu_count()} cores. Peers: {versions}.", ""]
    for model in ("base", "minilm"):
        for precision in ("f32", "bf16", "int8"):
            engines = [e for e in ENGINES[precision] if (model, precision, e, "32x128") in values]
            if "cloze" not in engines:
                continue
            out += [f"## {'BERT-base' if model == 'base' else 'all-MiniLM-L6-v2'}, {precision}", "",
                    "| case | " + " | ".join(engines) + " | ratio |", "|---|" + "---|" * (len(engines) + 1)]
            for case, title in CASES:
                cells, times = [], {}
                for engine in engines:
                    found = best(model, precision, engine, case)
                    if not found:
                        cells.append("–")
                        continue
                    times[engine] = found[0]
                    speed = f"{1e3 * found[0]:.2f} ms" if case.startswith("1x") else f"{tokens[case] / found[0]:,.0f} tok/s"
                    cells.append(f"{speed} ±{50 * found[1]:.0f} %")
                peers = [t for e, t in times.items() if e != "cloze"]
                ratio = f"**{min(peers) / times['cloze']:.2f}**" if peers and "cloze" in times else "–"
                out.append(f"| {title} | " + " | ".join(cells) + f" | {ratio} |")
            for case, title, form in (("memory", "peak memory, 32 × 128", "{:.0f} MB"), ("cosine", "worst cosine to PyTorch f32", "{:.6f}")):
                found = {e: statistics.median(values[(model, precision, e, case)][None]) for e in engines if (model, precision, e, case) in values}
                cells = [form.format(found[e]) if e in found else "–" for e in engines]
                peers = [v for e, v in found.items() if e != "cloze"]
                ratio = f"{found['cloze'] / min(peers):.2f} of the leanest" if case == "memory" and peers and "cloze" in found else ""
                out.append(f"| {title} | " + " | ".join(cells) + f" | {ratio} |")
            out.append("")
    text = "\n".join(out)
    if args.out:
        pathlib.Path(args.out).write_text(text)
    print(text)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("job", choices=["prepare", "run", "report", "worker"])
parser.add_argument("--work", required=True)
parser.add_argument("--cloze")
parser.add_argument("--minilm")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--models", default="base,minilm")
parser.add_argument("--precisions", default="f32,bf16,int8")
parser.add_argument("--engines", default="")
parser.add_argument("--engine")
parser.add_argument("--precision")
parser.add_argument("--model")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--out")
args = parser.parse_args()
{"prepare": prepare, "run": run, "report": report, "worker": worker}[args.job](args)
