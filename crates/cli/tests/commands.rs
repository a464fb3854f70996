//! The commands as people type them: what they answer, what they refuse, and with which exit code.

mod world;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use world::World;

#[test]
fn help_is_there_for_every_command() {
    let world = World::new();
    let commands = [
        ("", "quickstart"),
        ("quickstart", "--corpus"),
        ("tokenizer train", "--vocab-size"),
        ("tokenizer encode", "--model"),
        ("prepare", "--show-masks"),
        ("pretrain", "--resume"),
        ("finetune", "--train"),
        ("evaluate", "--data"),
        ("predict", "--top-k"),
        ("attention", "--head"),
        ("quantize", "--tolerance"),
        ("search index", "--out"),
        ("search query", "--index"),
        ("serve", "--api-key"),
        ("inspect", "--tensors"),
        ("bench", "step"),
    ];
    for (command, named) in commands {
        let help = world.run(&format!("{command} --help")).well();
        assert!(help.out.contains("Usage: cloze") && help.out.contains(named), "{command}: {}", help.out);
        assert!(help.err.is_empty(), "{command}: {}", help.err);
        assert!(help.out.lines().all(|line| line.chars().count() <= 130), "{command}: lines fit a terminal");
    }
    assert!(world.run("--version").well().out.starts_with("cloze "));
    assert!(!world.path("runs").exists(), "help does nothing");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let world = World::new();
    for (line, says) in [
        ("", "Usage"),
        ("frobnicate", "frobnicate"),
        ("pretrain", "<RECIPE>"),
        ("predict --model a --topk 3", "--topk"),
        ("predict --model a --top-k many x", "many"),
        ("predict --model a --precision f64 x", "auto, f32 or bf16"),
        ("predict --model a --input b c", "cannot be used with"),
        ("quickstart --budget soon", "soon"),
        ("--threads 0 inspect .", "0"),
        ("--device gpu9 inspect .", "gpu9"),
        ("tokenizer train --out x", "--input"),
    ] {
        world.run(line).fails(2, &[says]);
    }
}

#[test]
fn what_cannot_be_done_is_exit_code_1_with_the_reason_last() {
    let world = World::new();
    world.write("empty.txt", "");
    world.write("broken.toml", "out = \"x\"\n[train]\nbudgte = 3\n");
    world.write("latin1.txt", b"good line\n\nbad \xe9 line\n");
    for (line, says) in [
        ("inspect missing", &["missing", "config.json"][..]),
        ("predict --model missing text", &["missing", "config.json"]),
        ("pretrain missing.toml", &["missing.toml"]),
        ("pretrain broken.toml", &["broken.toml", "line"]),
        ("tokenizer train --input missing.txt --out v", &["missing.txt"]),
        ("tokenizer train --input empty.txt --out v", &["empty.txt"]),
        ("tokenizer train --input latin1.txt --out v", &["latin1.txt:3:", "UTF-8", "--skip-bad"]),
        ("prepare --input text.txt --tokenizer missing --out c", &["missing"]),
        ("evaluate --model missing --data text.tsv", &["missing"]),
        ("finetune --model missing --train a.tsv --dev b.tsv --out c", &["missing"]),
    ] {
        let done = world.run(line).fails(1, says);
        assert!(done.err.lines().any(|l| l.starts_with("error: ")), "{line}: {}", done.err);
        assert_eq!(done.err.matches(says[0]).count(), 1, "{line}: told once: {}", done.err);
    }
    let passed_over = world.run("tokenizer train --input latin1.txt text.txt --out v --vocab-size 60 --skip-bad --json").well().json();
    assert_eq!((&passed_over[0]["documents"], &passed_over[0]["bad"]), (&101.into(), &1.into()));
}

#[test]
fn a_cased_vocabulary_knows_the_characters_of_its_corpus() {
    let world = World::new();
    world.write("nfd.txt", "cafe\u{301} noir et cafe\u{301} blanc.\n\nun autre cafe\u{301} noir.\n");
    world.run("tokenizer train --input nfd.txt --out v --cased --vocab-size 80").well();
    let report = world.run("prepare --input nfd.txt --tokenizer v --out c --json").well().json();
    assert_eq!(report[0]["unknown_tokens"], 0);
}

#[test]
fn a_vocabulary_is_trained_and_used() {
    let world = World::prepared();
    assert!(world.path("vocabulary/tokenizer.json").exists() && world.path("vocabulary/vocab.txt").exists());
    let done = world.command("tokenizer encode --json --model vocabulary").args(["The old sailor.", "猫 xyz"]).output().unwrap();
    let answers = world::Done::from(done).well().json();
    assert_eq!(answers.len(), 2);
    let tokens: Vec<&str> = answers[0]["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(tokens, ["[CLS]", "the", "old", "sailor", ".", "[SEP]"]);
    assert_eq!(answers[0]["offsets"][3], serde_json::json!([8, 14]));
    assert_eq!(answers[1]["tokens"][1], "[UNK]");

    // standard input is a source as any other
    let mut child = world
        .command("tokenizer train --input - --vocab-size 60 --out second --json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&std::fs::read(world.path("text.txt")).unwrap()).unwrap();
    let report = world::Done::from(child.wait_with_output().unwrap()).well().json();
    assert_eq!(report[0]["documents"], 100);
}

#[test]
fn masks_are_shown() {
    let world = World::prepared();
    let done = world.run("prepare --input text.txt --tokenizer vocabulary --out second --show-masks 3").well();
    assert_eq!(done.out.matches("[SEP]").count(), 3, "{}", done.out);
    assert!(done.out.contains("[MASK]→") || done.out.contains("[MASK]"), "{}", done.out);
    assert!(!done.out.contains('\u{1b}'), "no colour where no terminal is");
    world.run("prepare --input text.txt --tokenizer vocabulary --out second").fails(1, &["second"]);
    // text without a tokenizer is not passed over
    world.run("prepare --input text.txt --out third --show-masks 3").fails(2, &["--tokenizer"]);
}

/// Rows whose label is told by one word.
fn rows(world: &World, name: &str, from: usize, to: usize) {
    let mut table = String::from("text\tlabel\n");
    for i in from..to {
        let (animal, label) = if i % 3 == 0 { ("dog", "dogs") } else { ("cat", "cats") };
        let place = ["house", "boat", "river", "sailor", "child"][i % 5];
        let near = ["near", "under", "with"][i / 5 % 3];
        table.push_str(&format!("the old {animal} slept {near} the {place} again\t{label}\n"));
    }
    world.write(name, table);
}

#[test]
fn from_a_recipe_to_answers() {
    let world = World::prepared();
    world.recipe(60);
    let events = world.run("pretrain recipe.toml --json --quiet").well().json();
    let count = |name: &str| events.iter().filter(|e| e["event"] == name).count();
    assert_eq!((count("start"), count("step"), count("finished")), (1, 60, 1));
    for file in ["log.jsonl", "curve.svg", "model/model.safetensors", "model/config.json", "model/tokenizer.json", "model/README.md"] {
        assert!(world.path("run").join(file).exists(), "{file}");
    }
    world.run("pretrain recipe.toml").fails(1, &["holds a run already", "--resume"]);
    world.run("pretrain recipe.toml --set train.budgets=1").fails(1, &["train.budgets", "unknown field"]);
    // a run that is finished says so, and writes nothing
    let log = std::fs::read(world.path("run/log.jsonl")).unwrap();
    assert!(world.run("pretrain recipe.toml --resume").well().err.contains("the run is finished"));
    assert_eq!(std::fs::read(world.path("run/log.jsonl")).unwrap(), log);

    // a masked word
    let done = world.command("predict --model run/model --json --top-k 3").args(["the [MASK] slept", "[MASK] [MASK]"]).output().unwrap();
    let answers = world::Done::from(done).well().json();
    assert_eq!(answers[0]["answer"].as_array().unwrap().len(), 3, "one mask: its candidates");
    assert_eq!(answers[1]["answer"].as_array().unwrap().len(), 2, "two masks: those of each");
    assert_eq!(answers[1]["answer"][0].as_array().unwrap().len(), 3);
    world.run("predict --model run/model --task text-classification x").fails(1, &["no sequence classifier", "cloze finetune"]);
    world.run("predict --model run/model --task dance x").fails(2, &["dance", "fill-mask"]);
    let done = world.command("predict --model run/model --json --option joint=true").arg("the [MASK] [MASK] near").output().unwrap();
    let joint = &world::Done::from(done).well().json()[0]["answer"];
    assert_eq!(joint[0]["words"].as_array().unwrap().len(), 2, "{joint}");
    let done = world.command("predict --model run/model --task masked-lm-scoring --json").arg("the dog slept").output().unwrap();
    assert!(world::Done::from(done).well().json()[0]["answer"]["score"].as_f64().unwrap() < 0.0);

    // a classifier
    rows(&world, "train.tsv", 0, 150);
    rows(&world, "dev.tsv", 150, 210);
    let done = world
        .command("finetune --task text-classification --model run/model --train train.tsv --dev dev.tsv --out classifier")
        .args(["--set", "budget=30 epochs", "--set", "optimizer.lr=3e-3"])
        .output()
        .unwrap();
    let done = world::Done::from(done).well();
    assert!(done.err.contains("dogs") && done.err.contains("cats"), "the balance of the classes is shown: {}", done.err);
    let doubtful = std::fs::read_to_string(world.path("classifier/label-errors.tsv")).unwrap();
    assert!(doubtful.starts_with("line\tscore\tlabel\tmodel\ttext\n"), "{doubtful}");

    let figures = world.run("evaluate --model classifier/model --data dev.tsv --json --quiet").well().json();
    let accuracy = figures[0]["metrics"]["accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.9, "{}", figures[0]);
    world.write("other.tsv", "text\tlabel\na cat\tbirds\n");
    world.run("evaluate --model classifier/model --data other.tsv").fails(1, &["other.tsv", "birds"]);
    world.write("columns.tsv", "words\tanimal\na cat\tcats\n");
    world.run("evaluate --model classifier/model --data columns.tsv").fails(1, &["columns.tsv", "words"]);

    // a stream: each line is answered before the next is given
    let mut child =
        world.command("predict --model classifier/model --json --quiet").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut give, mut take) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for (text, label) in [("the old dog slept near the house again", "dogs"), ("the old cat slept near the house again", "cats"), ("", "")]
    {
        writeln!(give, "{text}").unwrap();
        let mut line = String::new();
        take.read_line(&mut line).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["text"], text);
        let best = &answer["answer"][0];
        assert!(label.is_empty() || best["label"] == label, "{answer}");
        assert!((0.0..=1.0).contains(&best["score"].as_f64().unwrap()));
    }
    drop(give);
    assert!(child.wait().unwrap().success());

    // what is cut is told, and the mark of an encoding is no part of the first line
    world.write("marked.txt", "\u{feff}{\"text\": \"the old dog slept near the house again\"}\nthe old cat\n");
    let told = world.run("predict --model classifier/model --input marked.txt --json --max-length 6").well();
    assert!(told.err.contains("1 of the inputs were cut to the 6 tokens"), "{}", told.err);
    assert_eq!(told.json()[0]["text"], "the old dog slept near the house again");

    // answers go to a file, and a run that was cut goes on behind its last whole line
    let whole = world.run("predict --model classifier/model --input dev.tsv --out all.jsonl").well();
    assert!(whole.out.is_empty());
    let all = std::fs::read_to_string(world.path("all.jsonl")).unwrap();
    assert_eq!(all.lines().count(), 60);
    world.write("cut.jsonl", &all[..all.len() / 2]);
    world.run("predict --model classifier/model --input dev.tsv --out cut.jsonl").well();
    assert_eq!(std::fs::read_to_string(world.path("cut.jsonl")).unwrap(), all, "no row is lost or doubled");

    // many evaluations in one table
    world.write("suite.toml", "[[run]]\nname = \"animals\"\nmodel = \"classifier/model\"\ndata = \"dev.tsv\"\n");
    let suite = world.run("evaluate --suite suite.toml --json --quiet").well().json();
    assert_eq!((&suite[0]["name"], suite[0]["rows"].as_u64()), (&"animals".into(), Some(60)));
    let two = "[[run]]\nname = \"gone\"\nmodel = \"gone/model/x\"\ndata = \"dev.tsv\"\n[[run]]\nmodel = \"classifier/model\"\ndata = \"dev.tsv\"\nmetric = \"mcc\"\n";
    world.write("suite.toml", two);
    let run = world.run("evaluate --suite suite.toml --quiet");
    assert!(run.out.contains("60  mcc "), "one that fails leaves the others their figures: {}", run.out);
    run.fails(1, &["1 of 2 evaluations failed: gone"]);
    let last = "[[run]]\nname = \"last\"\nmodel = \"classifier/model\"\ndata = \"dev.tsv\"\n";
    world.write("suite.toml", two.replace("mcc", "bleu") + last);
    let run = world.run("evaluate --suite suite.toml --quiet");
    assert!(run.out.contains("last"), "nor does a figure that is not there: {}", run.out);
    run.fails(1, &["bleu", "accuracy", "2 of 3 evaluations failed"]);
    world.write("suite.toml", "[[run]]\nmodle = \"classifier/model\"\n");
    world.run("evaluate --suite suite.toml").fails(1, &["suite.toml", "modle"]);

    // low-rank updates kept as an adapter: on the base that it names, on one that is given, and merged into one folder
    let done = world
        .command("finetune --model run/model --train train.tsv --dev dev.tsv --out lora --quiet --json")
        .args(["--set", "budget=30 epochs", "--set", "optimizer.lr=1e-2", "--set", "lora.rank=4", "--set", "lora.keep=adapter"])
        .output()
        .unwrap();
    world::Done::from(done).well();
    let accuracy = |command: &str| world.run(command).well().json()[0]["metrics"]["accuracy"].as_f64().unwrap();
    let named = accuracy("evaluate --model lora/model --data dev.tsv --json --quiet");
    assert!(named > 0.9, "{named}");
    assert_eq!(accuracy("evaluate --model run/model --adapter lora/model --data dev.tsv --json --quiet"), named);
    let converted = &world.run("convert --from lora/model --out merged --json").well().json()[0];
    assert!(converted["notes"][0].as_str().unwrap().contains("merged into"), "{converted}");
    assert_eq!(accuracy("evaluate --model merged --data dev.tsv --json --quiet"), named);
    world.run("convert --from lora/model --out merged").fails(1, &["holds a model already"]);
    std::fs::create_dir(world.path("notes")).unwrap();
    world.write("notes/mine.txt", "kept");
    world.run("convert --from lora/model --out notes").fails(1, &["notes", "not empty"]);
    world.run("search index --model run/model --input dev.tsv --out notes --quiet").fails(1, &["notes", "not an index's"]);
    assert_eq!(std::fs::read_to_string(world.path("notes/mine.txt")).unwrap(), "kept");
    let report = &world.run("inspect lora/model --json").well().json()[0];
    assert_eq!((&report["adapter"]["ranks"], report["adapter"]["matrices"].as_u64().unwrap() > 3), (&serde_json::json!([4]), true));
    world
        .run("finetune --model run/model --train train.tsv --dev dev.tsv --out x --set lora.targets=[\"q_proj\"]")
        .fails(1, &["q_proj", "query"]);
    world.run("evaluate --model run/model --adapter classifier/model --data dev.tsv").fails(1, &["adapter_config.json"]);
    // a base that only the adapter's file names is not fetched: a listener stands where the hub would be, and nobody comes
    let hub = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    hub.set_nonblocking(true).unwrap();
    let config = std::fs::read_to_string(world.path("lora/model/adapter_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["base_model_name_or_path"] = "some-org/some-base".into();
    world.write("lora/model/adapter_config.json", config.to_string());
    let endpoint = format!("http://{}", hub.local_addr().unwrap());
    let asked = world.command("evaluate --model lora/model --data dev.tsv").env("HF_ENDPOINT", endpoint).output().unwrap();
    world::Done::from(asked).fails(1, &["adapter_config.json", "some-org/some-base", "cloze inspect", "--adapter lora/model"]);
    assert_eq!(hub.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "the hub was asked");
    assert_eq!(accuracy("evaluate --model run/model --adapter lora/model --data dev.tsv --json --quiet"), named);

    // seeds with mean and spread
    let done = world
        .command("finetune --model run/model --train train.tsv --dev dev.tsv --out seeds --seeds 2 --json --quiet")
        .args(["--set", "budget=1 epochs"])
        .output()
        .unwrap();
    let seeds = world::Done::from(done).well().json();
    assert_eq!(seeds.last().unwrap()["metrics"]["accuracy"].as_array().unwrap().len(), 2);
    // a run of seeds that was cut goes on: what is done is not done again, what was not reached begins
    std::fs::remove_dir_all(world.path("seeds/seed-1")).unwrap();
    let done_before = std::fs::read(world.path("seeds/seed-0/log.jsonl")).unwrap();
    let again = world
        .command("finetune --model run/model --train train.tsv --dev dev.tsv --out seeds --seeds 2 --json --quiet --resume")
        .args(["--set", "budget=1 epochs"])
        .output()
        .unwrap();
    let again = world::Done::from(again).well().json();
    assert_eq!(again.last(), seeds.last(), "the figures of both");
    assert!(world.path("seeds/seed-1/model").exists());
    assert_eq!(std::fs::read(world.path("seeds/seed-0/log.jsonl")).unwrap(), done_before, "the first is left as it is");
    let none = world.command("finetune --model run/model --train train.tsv --dev dev.tsv --out none --seeds 2 --resume").output().unwrap();
    world::Done::from(none).fails(1, &["none"]);

    // an index of the texts, and what is nearest to one of them
    world.run("search index --model run/model --input dev.tsv --out index --quiet").well();
    let done = world.command("search query --index index --json --top-k 2").arg("the old dog slept near the boat again").output().unwrap();
    let hits = &world::Done::from(done).well().json()[0]["hits"];
    assert_eq!(hits.as_array().unwrap().len(), 2);
    assert!(hits[0]["score"].as_f64().unwrap() >= hits[1]["score"].as_f64().unwrap() && hits[0]["row"]["text"].is_string(), "{hits}");
    // made again, by a model of the hub, whose name stays a name
    let snapshot = world.path("hub/models--some-org--tiny/snapshots/0123456789abcdef0123456789abcdef01234567");
    std::fs::create_dir_all(&snapshot).unwrap();
    for entry in std::fs::read_dir(world.path("run/model")).unwrap().flatten().filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
    }
    std::fs::create_dir(world.path("hub/models--some-org--tiny/refs")).unwrap();
    world.write("hub/models--some-org--tiny/refs/main", "0123456789abcdef0123456789abcdef01234567");
    let with_hub = |command: &str| {
        let done = world.command(command).env("HF_HUB_CACHE", world.path("hub")).env("HF_HUB_OFFLINE", "1").output().unwrap();
        world::Done::from(done).well()
    };
    with_hub("search index --model some-org/tiny --input dev.tsv --out index --quiet");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(world.path("index/index.json")).unwrap()).unwrap();
    assert_eq!(manifest["model"], "some-org/tiny");
    assert_eq!(with_hub("search query --index index --json --top-k 2 dog").json()[0]["hits"].as_array().unwrap().len(), 2);
    world.write("index/vectors.f32", b"cut");
    world.run("search query --index index x").fails(1, &["vectors.f32", "3 bytes"]);

    // a reader that goes away is no fault
    let many = "the old dog slept\n".repeat(20_000);
    world.write("many.txt", many);
    let mut child =
        world.command("predict --model classifier/model --input many.txt").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("dog"), "{first}");
    world::Done::from(child.wait_with_output().unwrap()).fails(0, &[]);

    // what cannot be answered is named by its line, and what stands before it is answered
    world.write("odd.jsonl", "{\"text\": \"the old dog slept\"}\n\n{\"text\": 3}\n{\"text\": \"the old cat slept\"}\n");
    world.run("predict --model classifier/model --input odd.jsonl --out odd.out").fails(1, &["odd.jsonl: line 3:", "`text`"]);
    assert_eq!(std::fs::read_to_string(world.path("odd.out")).unwrap().lines().count(), 1);
    world.run("predict --model run/model --task fill-mask --input many.txt").fails(1, &["many.txt: line 1:", "[MASK]"]);
    let done = world.command("predict --model run/model --task fill-mask").args(["the [MASK] slept", "no mask"]).output().unwrap();
    world::Done::from(done).fails(1, &["text 2:", "[MASK]"]);

    // which token looks at which, and what the answer loses without a head
    let seen = world.run("attention --model run/model --layer 1").well().out;
    assert!(seen.contains("layer 1 of 0 to 1") && seen.contains("head  1") && seen.contains("[CLS]"), "{seen}");
    let steps = world.run("attention --model run/model --layer 0 --head 1 --steps").well().out;
    assert!(steps.contains("softmax(q·k · 0.2500)") && steps.contains("q·k (sums of 16 products)"), "{steps}");
    let without = world.command("attention --model run/model --ablate 0.1,1.0").arg("the [MASK] slept").output().unwrap();
    let without = world::Done::from(without).well().out;
    assert!(without.contains("fill-mask: loss") && without.contains("without 0.1, 1.0: "), "{without}");
    let each = &world.run("attention --model classifier/model --ablate all --json").well().json()[0];
    assert_eq!((&each["task"], &each["measure"]), (&"text-classification".into(), &"probability".into()));
    assert!(each["each"].as_array().unwrap().len() == 2 && each["each"][1].as_array().unwrap().len() == 2, "{each}");
    let table = world.run("attention --model run/model --ablate all").well().out;
    assert!(table.contains("masked-lm-scoring") && table.contains("the heads that matter most: "), "{table}");
    world.run("attention --model run/model --ablate 2.0").fails(1, &["2.0", "layers 0 to 1"]);
    world.run("attention --model run/model --ablate two").fails(2, &["LAYER.HEAD"]);
    world.run("attention --model run/model --html page.html").well();
    let page = std::fs::read_to_string(world.path("page.html")).unwrap();
    assert!(page.contains("\"The cat sat on the mat\"") && page.contains("\"猫坐在垫子上\"") && page.ends_with("</html>\n"));
    assert!(!page.contains("https://"), "the page loads nothing from elsewhere");

    // rows of parquet need a build that reads them
    if !cfg!(feature = "parquet") {
        world.write("rows.parquet", "PAR1");
        world.run("evaluate --model classifier/model --data rows.parquet").fails(1, &["rows.parquet", "--features parquet"]);
    }

    // lines that are no text are named
    world.write("latin1.txt", b"good\nbad \xe9\n");
    world.run("predict --model classifier/model --input latin1.txt").fails(1, &["line 2", "UTF-8"]);

    // what folders hold
    let report = &world.run("inspect run --json").well().json()[0];
    assert_eq!((&report["model"]["family"], report["model"]["vocabulary"].as_u64().unwrap() > 50), (&"bert".into(), true));
    let report = &world.run("inspect corpus --json").well().json()[0];
    assert!(report["corpus"].is_object() && report["tokenizer"].is_object(), "{report}");
    assert!(world.run("inspect classifier/model --tensors").well().out.contains("classifier.weight"));
}

/// A full disk ends a run with the reason; what was saved before is sound. Needs leave to mount a small file system.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_keeps_the_last_checkpoint() {
    let world = World::prepared();
    world.recipe(300);
    let disk = world.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=1200k", "tmpfs"]).arg(&disk).output();
    if !mounted.is_ok_and(|done| done.status.success()) {
        println!("skipped: no leave to mount a file system");
        return;
    }
    // room for the checkpoints that are kept, taken away while the run is going on
    let mut child = world
        .command("pretrain recipe.toml --json --quiet --set out=disk/run")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let saved = lines.any(|line| line.contains("\"event\":\"checkpoint\""));
    let fill = std::fs::write(disk.join("filling"), vec![1u8; 2 << 20]);
    for _ in lines {}
    let done = world::Done::from(child.wait_with_output().unwrap());
    let latest = cloze::train::checkpoint::latest_complete(&disk.join("run/checkpoints"));
    let unmounted = std::process::Command::new("umount").arg(&disk).status().unwrap();
    assert!(saved && fill.is_err(), "the disk is full after a first checkpoint");
    done.fails(1, &["disk", "space"]);
    let latest = latest.unwrap();
    assert!(latest.checkpoint.is_some(), "{:?}", latest.skipped);
    assert!(unmounted.success());
}
