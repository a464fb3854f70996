//! `prepare`: complete, repeatable, safe to kill.

mod corpus_support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use cloze_text::read::OnBad;
use cloze_text::{Dataset, Error, Manifest, Report, Split, Tokenizer, prepare};
use corpus_support::{corpus, options, run, texts, tokenizer, write};

/// Every file of a folder, by its name.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            out.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            out.insert(name, std::fs::read(&path).unwrap());
        }
    }
    out
}

fn document_ids(dataset: &Dataset) -> Vec<Vec<u32>> {
    (0..dataset.documents()).map(|d| dataset.sentences(d).unwrap().into_iter().flat_map(|s| s.ids()).collect()).collect()
}

#[test]
fn the_corpus_holds_each_document_once_in_one_split() {
    let (_folder, out, report) = corpus(500, |options| options.holdout = 0.1);
    let (train, heldout) = (Dataset::open(&out, Split::Train).unwrap(), Dataset::open(&out, Split::Heldout).unwrap());
    train.verify().unwrap();
    heldout.verify().unwrap();
    assert_eq!(train.documents() + heldout.documents(), 500);
    assert!((20..90).contains(&heldout.documents()), "{} held out of 500 at 10 %", heldout.documents());
    let tokenizer = tokenizer();
    let mut expected: Vec<Vec<u32>> = texts(500).iter().map(|text| tokenizer.encode(text, false).unwrap().ids).collect();
    let mut found = document_ids(&train);
    found.extend(document_ids(&heldout));
    expected.sort();
    found.sort();
    assert_eq!(found, expected, "sentence by sentence gives the ids of the whole text");
    assert_eq!(report.documents, 500);
    assert_eq!(report.tokens, train.tokens() + heldout.tokens());
    assert_eq!(report.sentences, train.sentence_count() + heldout.sentence_count());
    assert_eq!((report.heldout_documents, report.heldout_tokens), (heldout.documents(), heldout.tokens()));
    assert_eq!(report.lengths.iter().map(|bin| bin.documents).sum::<u64>(), 500);
    assert!(report.unknown_tokens > 50, "型 is not in the vocabulary");
    assert!(report.languages.len() == 3, "{:?}", report.languages);
    let saved: Report = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(saved, Report { seconds: 0.0, ..report.clone() });
    let shown = report.to_string();
    assert!(shown.contains("500 (") && shown.contains("English") && shown.contains("in.txt"), "{shown}");
    assert_eq!(Tokenizer::load(out.join("tokenizer")).unwrap().vocab_size(), tokenizer.vocab_size());
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let prepared = |threads: usize| {
        let (folder, out, _) = corpus(2500, |options| {
            options.threads = threads;
            options.shard_tokens = 20_000;
        });
        let mut files = files(&out);
        // Input paths are those of the temporary folder.
        let report = String::from_utf8(files.remove("report.json").unwrap()).unwrap();
        (files, report.replace(folder.path().to_str().unwrap(), ""))
    };
    let one = prepared(1);
    assert!(one.0.len() > 5, "several shards: {:?}", one.0.keys());
    assert_eq!(one, prepared(2));
    assert_eq!(one, prepared(7));
}

#[test]
fn whether_a_document_is_held_out_is_decided_by_its_content() {
    let heldout = |order: fn(&mut Vec<String>)| {
        let folder = tempfile::tempdir().unwrap();
        let mut all = texts(300);
        order(&mut all);
        let input = write(&folder.path().join("in.txt"), all.join("\n\n"));
        let mut options = options(&[input], &folder.path().join("corpus"));
        options.holdout = 0.1;
        run(&options).unwrap();
        let mut ids = document_ids(&Dataset::open(&options.out, Split::Heldout).unwrap());
        ids.sort();
        ids
    };
    assert_eq!(heldout(|_| {}), heldout(|all| all.reverse()));
}

#[test]
fn two_documents_are_enough_for_both_splits() {
    for holdout in [1e-9, 0.005, 0.5, 0.999_999] {
        for documents in [2, 3, 10] {
            let (_folder, out, report) = corpus(documents, |options| options.holdout = holdout);
            let (train, heldout) = (Dataset::open(&out, Split::Train).unwrap(), Dataset::open(&out, Split::Heldout).unwrap());
            assert!(train.documents() >= 1 && heldout.documents() >= 1, "{documents} documents at {holdout}");
            assert_eq!(train.documents() + heldout.documents(), documents as u64);
            assert_eq!(report.heldout_documents, heldout.documents());
            let held = document_ids(&heldout);
            assert!(document_ids(&train).iter().all(|ids| !held.contains(ids)));
        }
    }
    let (_folder, out, _) = corpus(1, |_| {});
    assert_eq!(Dataset::open(&out, Split::Train).unwrap().documents(), 1);
    let (_folder, out, _) = corpus(50, |options| options.holdout = 0.0);
    assert_eq!(Dataset::open(&out, Split::Heldout).unwrap().documents(), 0);
}

#[test]
fn what_is_dropped_is_counted_by_reason_and_file() {
    let folder = tempfile::tempdir().unwrap();
    let a = write(&folder.path().join("a.txt"), "the old sailor walked.\n\nthe  old sailor\u{a0}walked.\n\nb\n\nplaying of the storms.");
    let b = write(
        &folder.path().join("b.jsonl"),
        "{\"text\": \"the old sailor walked.\"}\n{\"text\": \" \"}\n{\n{\"text\": \"winter and winter.\"}\n",
    );
    let mut options = options(&[a.clone(), b.clone()], &folder.path().join("corpus"));
    let error = run(&options).unwrap_err();
    assert!(error.to_string().contains("b.jsonl:3: not a JSON object"), "{error}");
    assert!(!options.out.exists());
    options.read.on_bad = OnBad::SkipAndCount;
    let report = run(&options).unwrap();
    let [first, second] = &report.files[..] else { panic!("{:?}", report.files) };
    assert_eq!((first.path.as_str(), first.documents), (a.as_str(), 2));
    assert_eq!((first.dropped.duplicate, first.dropped.empty, first.dropped.too_short, first.dropped.bad), (1, 0, 1, 0));
    assert_eq!((second.path.as_str(), second.documents), (b.as_str(), 1));
    assert_eq!((second.dropped.duplicate, second.dropped.empty, second.dropped.too_short, second.dropped.bad), (1, 1, 0, 1));
    assert_eq!(report.dropped.total(), 5);
    assert_eq!(report.bad_kinds.get("not JSON"), Some(&1));
    assert!(report.bad_places[0].contains("b.jsonl:3"));
}

#[test]
fn an_interrupted_run_leaves_nothing_and_a_killed_one_is_cleared_away() {
    let folder = tempfile::tempdir().unwrap();
    let input = write(&folder.path().join("in.txt"), texts(3000).join("\n\n"));
    let options = options(&[input], &folder.path().join("corpus"));
    let error = prepare(&options, &tokenizer(), &mut |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    let left: Vec<String> = files(folder.path()).into_keys().collect();
    assert_eq!(left, ["in.txt"]);
    // What a killed run leaves: the partial folder with its marker.
    let partial = folder.path().join(".corpus.partial");
    std::fs::create_dir(&partial).unwrap();
    write(&partial.join(".cloze-prepare"), "");
    write(&partial.join("train-00000.shard"), "half a shard");
    run(&options).unwrap();
    assert!(!partial.exists());
    Dataset::open(&options.out, Split::Train).unwrap().verify().unwrap();
}

#[test]
fn nothing_of_others_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let input = write(&folder.path().join("in.txt"), texts(20).join("\n\n"));
    let mut options = options(&[input], &folder.path().join("corpus"));
    run(&options).unwrap();
    assert!(matches!(run(&options).unwrap_err(), Error::OutputExists { .. }));
    options.overwrite = true;
    run(&options).unwrap();
    let names: Vec<String> = files(folder.path()).into_keys().filter(|name| name.starts_with('.')).collect();
    assert!(names.is_empty(), "{names:?}");
    // A folder that is no corpus is never replaced.
    options.out = folder.path().join("photos");
    std::fs::create_dir(&options.out).unwrap();
    write(&options.out.join("holiday.jpg"), "…");
    assert!(matches!(run(&options).unwrap_err(), Error::OutputExists { .. }));
    assert!(options.out.join("holiday.jpg").exists());
    // Nor a partial folder that is not ours.
    options.out = folder.path().join("other");
    let partial = folder.path().join(".other.partial");
    std::fs::create_dir(&partial).unwrap();
    write(&partial.join("mine.txt"), "…");
    assert!(matches!(run(&options).unwrap_err(), Error::OutputExists { .. }));
    assert!(partial.join("mine.txt").exists());
}

#[test]
fn progress_counts_bytes_and_documents() {
    let folder = tempfile::tempdir().unwrap();
    let text = texts(400).join("\n\n");
    let input = write(&folder.path().join("in.txt"), &text);
    let options = options(&[input], &folder.path().join("corpus"));
    let mut seen = Vec::new();
    prepare(&options, &tokenizer(), &mut |progress| {
        seen.push(*progress);
        ControlFlow::Continue(())
    })
    .unwrap();
    let last = seen.last().unwrap();
    assert_eq!((last.bytes_done, last.bytes_total, last.documents), (text.len() as u64, Some(text.len() as u64), 400));
    assert!(last.mb_per_second() > 0.0);
    assert!(seen.windows(2).all(|w| w[0].bytes_done <= w[1].bytes_done && w[0].documents <= w[1].documents));
}

#[test]
fn nothing_to_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let blank = write(&folder.path().join("blank.txt"), "\n \n\n");
    let error = run(&options(&[blank], &folder.path().join("corpus"))).unwrap_err();
    assert!(matches!(error, Error::NoDocuments { files: 1, .. }), "{error}");
    assert!(matches!(run(&options(&[], &folder.path().join("corpus"))).unwrap_err(), Error::NoInput { .. }));
    let mut bad = options(&[], &folder.path().join("corpus"));
    bad.holdout = 1.5;
    assert!(run(&bad).unwrap_err().to_string().contains("holdout = 1.5"));
}

#[test]
fn real_text_in_both_languages_is_prepared() {
    let Ok(data) = std::env::var("CLOZE_DATA") else {
        println!("skipped: CLOZE_DATA is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let inputs = ["en_wikitext2_valid", "zh_news_web"].map(|name| format!("{data}/text/{name}.txt.zst"));
    let options = options(&inputs, &folder.path().join("corpus"));
    let report = run(&options).unwrap();
    assert!(report.documents > 1700 && report.languages.len() >= 2, "{report}");
    assert_eq!(Manifest::read(&options.out).unwrap().shards.iter().map(|s| s.documents).sum::<u64>(), report.documents);
    println!("{report}");
}
