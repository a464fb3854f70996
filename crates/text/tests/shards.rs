//! Damaged shards and manifests: found, named, and never a panic.

mod corpus_support;

use std::path::{Path, PathBuf};

use cloze_text::shard::{EncodedDocument, Shard, ShardWriter};
use cloze_text::{Dataset, Error, ShardFault, Split};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

const VOCABULARY: u64 = 1000;

/// A shard of 3,000 documents with two sentences each: several blocks of ids.
fn shard(folder: &Path) -> PathBuf {
    let path = folder.join("one.shard");
    let mut writer = ShardWriter::create(&path, VOCABULARY).unwrap();
    for d in 0..3000u32 {
        let ids: Vec<u32> = (0..20 + d % 7).map(|i| (d * 31 + i) % VOCABULARY as u32).collect();
        let continues = ids.iter().map(|id| id % 3 == 0).collect();
        let end = ids.len() as u32;
        writer.push(&EncodedDocument { ids, continues, sentence_ends: vec![end / 2, end] }).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Make the header's own checksum right again, so that the numbers themselves are looked at.
fn seal(bytes: &mut [u8]) {
    let checksum = xxh3_64(&bytes[..120]);
    bytes[120..128].copy_from_slice(&checksum.to_le_bytes());
}

fn seal_index(bytes: &mut [u8]) {
    let index = number(bytes, 56) as usize;
    let checksum = xxh3_64(&bytes[index..]);
    bytes[72..80].copy_from_slice(&checksum.to_le_bytes());
    seal(bytes);
}

fn fault_of(path: &Path) -> (u64, ShardFault) {
    match Shard::open(path).and_then(|shard| shard.verify()).unwrap_err() {
        Error::Shard { path: named, offset, fault } => {
            assert_eq!(named, path);
            (offset, fault)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_was_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for vocabulary in [VOCABULARY, 65_536, 65_537] {
        let path = folder.path().join("wide.shard");
        let mut writer = ShardWriter::create(&path, vocabulary).unwrap();
        let ids: Vec<u32> = (0..200_000u64).map(|i| (i * i % vocabulary) as u32).collect();
        let continues: Vec<bool> = ids.iter().map(|id| id % 5 == 2).collect();
        let document = EncodedDocument { ids: ids.clone(), continues: continues.clone(), sentence_ends: vec![7, 7, 100_001, 200_000] };
        writer.push(&document).unwrap();
        writer.finish().unwrap();
        let shard = Shard::open(&path).unwrap();
        shard.verify().unwrap();
        assert_eq!((shard.tokens(), shard.sentences(), shard.documents()), (200_000, 4, 1));
        for range in [0..200_000, 3..3, 7..100_001, 99_999..200_000] {
            let tokens = shard.token_range(range.clone()).unwrap();
            let range = range.start as usize..range.end as usize;
            assert!(tokens.ids().eq(ids[range.clone()].iter().copied()));
            assert!((0..tokens.len()).all(|i| tokens.continues(i) == continues[range.start + i]));
        }
    }
}

#[test]
fn an_id_outside_of_the_vocabulary_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(&folder.path().join("bad.shard"), 10).unwrap();
    let document = EncodedDocument { ids: vec![3, 10], continues: vec![false; 2], sentence_ends: vec![2] };
    let error = writer.push(&document).unwrap_err();
    assert!(matches!(error, Error::Shard { fault: ShardFault::TokenId { id: 10, vocabulary: 10 }, .. }), "{error}");
}

#[test]
fn every_kind_of_damage_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = shard(folder.path());
    let good = std::fs::read(&path).unwrap();
    let index = number(&good, 56) as usize;
    let sentences = number(&good, 24) as usize;
    let documents_at = index + 4 * (sentences + 1);
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    type Check = fn(u64, &ShardFault) -> bool;
    let put = |at: usize, value: u64| move |bytes: &mut Vec<u8>| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let header = |at: usize, value: u64| -> Damage {
        Box::new(move |bytes| {
            put(at, value)(bytes);
            seal(bytes);
        })
    };
    let offset = |at: usize, value: u32| -> Damage {
        Box::new(move |bytes| {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            seal_index(bytes);
        })
    };
    let cases: Vec<(&str, Damage, Check)> = vec![
        ("empty", Box::new(|b| b.clear()), |o, f| o == 0 && matches!(f, ShardFault::Length { found: 0, .. })),
        ("cut in the header", Box::new(|b| b.truncate(50)), |o, f| o == 50 && matches!(f, ShardFault::Length { found: 50, .. })),
        ("cut in the ids", Box::new(|b| b.truncate(1000)), |o, f| o == 1000 && matches!(f, ShardFault::Length { found: 1000, .. })),
        ("cut by one byte", Box::new(|b| b.truncate(b.len() - 1)), |_, f| matches!(f, ShardFault::Length { .. })),
        ("a byte too many", Box::new(|b| b.push(0)), |_, f| matches!(f, ShardFault::Length { .. })),
        ("another kind of file", Box::new(|b| b[..4].copy_from_slice(b"PK\x03\x04")), |o, f| o == 0 && *f == ShardFault::Signature),
        ("another version", Box::new(|b| b[8] = 9), |o, f| o == 8 && matches!(f, ShardFault::Version { found: 9, .. })),
        ("a flipped bit of the header", Box::new(|b| b[20] ^= 4), |_, f| matches!(f, ShardFault::Checksum { part: "header", .. })),
        ("a flipped bit of the ids", Box::new(|b| b[70_000] ^= 1), |o, f| {
            o == 128 + 65_536 && matches!(f, ShardFault::Checksum { part: "token block", .. })
        }),
        ("a flipped bit of the index", Box::new(move |b| b[index + 5] ^= 1), |_, f| {
            matches!(f, ShardFault::Checksum { part: "index", .. })
        }),
        ("a flipped bit of a checksum", Box::new(|b| *b.last_mut().unwrap() ^= 1), |_, f| {
            matches!(f, ShardFault::Checksum { part: "index", .. })
        }),
        ("more tokens than bytes", header(16, 1 << 40), |o, f| o == 16 && matches!(f, ShardFault::Layout { .. })),
        ("the largest token count", header(16, u64::MAX), |_, f| matches!(f, ShardFault::Layout { .. })),
        ("a token more", header(16, number(&good, 16) + 8), |_, f| matches!(f, ShardFault::Layout { .. })),
        ("a sentence more", header(24, number(&good, 24) + 2), |o, f| o == 64 && matches!(f, ShardFault::Layout { .. })),
        ("a vocabulary of wider ids", header(40, 70_000), |o, f| o == 12 && matches!(f, ShardFault::Layout { .. })),
        ("an index elsewhere", header(56, 128), |o, f| o == 56 && matches!(f, ShardFault::Layout { .. })),
        ("a smaller vocabulary", header(40, 500), |_, f| matches!(f, ShardFault::TokenId { vocabulary: 500, .. })),
        ("a sentence that runs backwards", offset(index + 4 * 10, 3), |_, f| {
            matches!(f, ShardFault::Offset { what: "sentence", index: 10, .. })
        }),
        ("a sentence outside", offset(index + 4 * 10, u32::MAX), |_, f| {
            matches!(f, ShardFault::Offset { what: "sentence", index: 10, .. })
        }),
        ("a first sentence not at 0", offset(index, 1), |_, f| matches!(f, ShardFault::Offset { what: "sentence", index: 0, .. })),
        ("a document outside", offset(documents_at + 4 * 3000, 7), |_, f| {
            matches!(f, ShardFault::Offset { what: "document", index: 3000, .. })
        }),
    ];
    for (name, damage, check) in cases {
        let mut bytes = good.clone();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let (offset, fault) = fault_of(&path);
        assert!(check(offset, &fault), "{name}: at {offset}: {fault}");
    }
}

#[test]
fn damage_is_met_on_first_touch_and_only_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = shard(folder.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70_000] ^= 1; // in the second block
    std::fs::write(&path, &bytes).unwrap();
    let shard = Shard::open(&path).unwrap();
    shard.token_range(0..1000).unwrap();
    let error = shard.token_range(34_000..34_001).unwrap_err();
    assert!(error.to_string().contains("one.shard") && error.to_string().contains("at byte 65664"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_damage_goes_unnoticed(at in 0usize..200_000, bit in 0u32..8, cut in any::<bool>()) {
        thread_local!(static GOOD: Vec<u8> = { let folder = tempfile::tempdir().unwrap(); std::fs::read(shard(folder.path())).unwrap() });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mutant.shard");
        let mut bytes = GOOD.with(Clone::clone);
        let at = at % bytes.len();
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        std::fs::write(&path, &bytes).unwrap();
        prop_assert!(Shard::open(&path).and_then(|shard| shard.verify()).is_err());
    }
}

#[test]
fn bad_manifests_are_named() {
    let (_folder, corpus, _) = corpus_support::corpus(40, |_| {});
    let manifest = corpus.join("manifest.json");
    let good = std::fs::read_to_string(&manifest).unwrap();
    let cases = [
        ("{", "EOF"),
        ("{}", "version"),
        (&good.replace("\"version\": 1", "\"version\": 7"), "layout version 7"),
        (&good.replace("train-00000.shard", "../train-00000.shard"), "not a plain file name"),
        (&good.replace("\"tokens\": ", "\"tokens\": 1"), "tokens"),
    ];
    for (text, part) in cases {
        std::fs::write(&manifest, text).unwrap();
        let error = Dataset::open(&corpus, Split::Train).unwrap_err();
        assert!(matches!(error, Error::Manifest { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    std::fs::remove_file(&manifest).unwrap();
    let error = Dataset::open(&corpus, Split::Train).unwrap_err();
    assert!(error.to_string().contains("there is no manifest.json"), "{error}");
}
