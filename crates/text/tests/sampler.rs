//! Batches: complete, in random order, masked as asked, the same wherever one resumes.

mod corpus_support;

use std::collections::BTreeMap;
use std::sync::Arc;

use cloze_text::{
    Batch, Dataset, Limits, Masking, ObjectiveConfig, Prefetch, Replacement, Sampler, SentenceObjective, Split, Vocabulary, show_masks,
};
use corpus_support::{corpus, tokenizer};

fn sampler(documents: usize, config: ObjectiveConfig, seed: u64) -> Sampler {
    let (_folder, path, _) = corpus(documents, |options| {
        options.holdout = 0.0;
        options.shard_tokens = 3000; // several shards
    });
    let dataset = Arc::new(Dataset::open(&path, Split::Train).unwrap());
    assert!(documents < 300 || dataset.shards().len() > 2);
    Sampler::new(dataset, config, Vocabulary::of(&tokenizer()).unwrap(), seed).unwrap()
}

const LIMITS: Limits = Limits { tokens: 1000, sequence_length: 64 };

/// The ids of sequence `s` before masking.
fn original(batch: &Batch, s: usize) -> Vec<u32> {
    let mut ids = batch.input_ids.clone();
    for (&row, &label) in batch.masked_rows.iter().zip(&batch.masked_labels) {
        ids[row as usize] = label;
    }
    ids[batch.sequences.range(s)].to_vec()
}

fn check_shape(batch: &Batch) {
    assert_eq!(batch.input_ids.len(), batch.token_type_ids.len());
    assert_eq!(batch.sequences.tokens(), batch.input_ids.len());
    assert_eq!(batch.masked_rows.len(), batch.masked_labels.len());
    assert!(batch.masked_rows.windows(2).all(|w| w[0] < w[1]), "masked rows ascend");
    assert!(batch.tokens() <= LIMITS.tokens && batch.sequences.longest() <= LIMITS.sequence_length);
}

#[test]
fn an_epoch_holds_every_token_once() {
    let sampler = sampler(300, ObjectiveConfig::default(), 7);
    let samples = sampler.samples(LIMITS.sequence_length).unwrap();
    let mut expected: BTreeMap<u32, usize> = BTreeMap::new();
    for document in 0..sampler.dataset().documents() {
        for sentence in sampler.dataset().sentences(document).unwrap() {
            sentence.ids().for_each(|id| *expected.entry(id).or_default() += 1);
        }
    }
    for epoch in 0..2 {
        let (mut cursor, mut seen) = (epoch * samples, BTreeMap::<u32, usize>::new());
        while cursor < (epoch + 1) * samples {
            let (batch, next) = sampler.batch(cursor, LIMITS).unwrap();
            check_shape(&batch);
            assert_eq!(next - cursor, batch.sequences.count() as u64);
            // A batch may run into the next epoch.
            for s in 0..((epoch + 1) * samples - cursor).min(next - cursor) as usize {
                let ids = original(&batch, s);
                assert_eq!((ids[0], ids[ids.len() - 1]), (sampler.vocabulary().cls, sampler.vocabulary().sep));
                ids[1..ids.len() - 1].iter().for_each(|&id| *seen.entry(id).or_default() += 1);
            }
            cursor = next;
        }
        assert_eq!(seen, expected, "epoch {epoch}");
    }
}

#[test]
fn order_and_masks_change_by_epoch_and_seed_and_by_nothing_else() {
    let sampler_a = sampler(120, ObjectiveConfig::default(), 7);
    let samples = sampler_a.samples(64).unwrap();
    let first = sampler_a.batch(0, LIMITS).unwrap();
    assert_eq!(first, sampler_a.batch(0, LIMITS).unwrap());
    assert_eq!(first, sampler(120, ObjectiveConfig::default(), 7).batch(0, LIMITS).unwrap());
    assert_ne!(first.0, sampler_a.batch(samples, LIMITS).unwrap().0, "the next epoch is in another order");
    assert_ne!(first.0, sampler(120, ObjectiveConfig::default(), 8).batch(0, LIMITS).unwrap().0);
    // Resuming at any cursor gives the batches of the uninterrupted run.
    let mut cursor = 0;
    let run: Vec<(u64, Batch)> = (0..30)
        .map(|_| {
            let (batch, next) = sampler_a.batch(cursor, LIMITS).unwrap();
            (std::mem::replace(&mut cursor, next), batch)
        })
        .collect();
    let fresh = sampler(120, ObjectiveConfig::default(), 7);
    for (cursor, batch) in run.iter().rev() {
        assert_eq!(&fresh.batch(*cursor, LIMITS).unwrap().0, batch);
    }
    // The prefetch changes nothing.
    let sampler_a = Arc::new(sampler_a);
    let mut prefetch = Prefetch::new(Arc::clone(&sampler_a), run[3].0, 2, |_| LIMITS).unwrap();
    for (_, batch) in &run[3..] {
        assert_eq!(&prefetch.next().unwrap().0, batch);
    }
}

#[test]
fn limits_may_change_from_batch_to_batch() {
    let sampler = Arc::new(sampler(60, ObjectiveConfig::default(), 1));
    let mut prefetch = Prefetch::new(sampler, 0, 3, |n| Limits { tokens: 200 + 100 * n as usize, sequence_length: 64 }).unwrap();
    for n in 0..5 {
        let (batch, _) = prefetch.next().unwrap();
        assert!(batch.tokens() <= 200 + 100 * n && batch.tokens() > 100 + 100 * n);
    }
}

/// (tokens that may be masked, masked, of these replaced by [MASK], by another token)
fn shares(config: &ObjectiveConfig) -> (f64, f64, f64, f64) {
    let sampler = sampler(300, config.clone(), 3);
    let (mut tokens, mut masked, mut mask, mut other) = (0usize, 0usize, 0usize, 0usize);
    let mut cursor = 0;
    for _ in 0..200 {
        let (batch, next) = sampler.batch(cursor, LIMITS).unwrap();
        check_shape(&batch);
        cursor = next;
        let frame = sampler.vocabulary();
        tokens += batch.tokens() - 2 * batch.sequences.count();
        masked += batch.masked_rows.len();
        for (&row, &label) in batch.masked_rows.iter().zip(&batch.masked_labels) {
            assert!(label != frame.cls && label != frame.sep, "special tokens are never masked");
            let shown = batch.input_ids[row as usize];
            mask += usize::from(shown == frame.mask);
            other += usize::from(shown != frame.mask && shown != label);
            assert!(shown == frame.mask || shown == label || !frame.special.contains(&shown), "a random token is never a special one");
        }
    }
    let masked = masked as f64;
    (tokens as f64, masked / tokens as f64, mask as f64 / masked, other as f64 / masked)
}

#[test]
fn shares_are_as_asked() {
    for masking in [Masking::Token, Masking::WholeWord, Masking::Span] {
        let (tokens, share, mask, other) = shares(&ObjectiveConfig { masking, ..ObjectiveConfig::default() });
        assert!(tokens > 100_000.0);
        // Words here are long (letters are pieces), so spans and words overshoot in short sequences, and a span may end early.
        let slack = if masking == Masking::Token { 0.003 } else { 0.02 };
        assert!((share - 0.15).abs() < slack, "{masking:?}: masked {share}");
        assert!((mask - 0.8).abs() < 0.015, "{masking:?}: [MASK] {mask}");
        assert!((other - 0.1).abs() < 0.015, "{masking:?}: random {other}");
    }
    let config = ObjectiveConfig { mask_probability: 0.4, mask_share: 0.5, random_share: 0.0, ..ObjectiveConfig::default() };
    let (_, share, mask, other) = shares(&config);
    assert!((share - 0.4).abs() < 0.003 && (mask - 0.5).abs() < 0.02 && other == 0.0, "{share} {mask} {other}");
}

/// The words of a sequence as the corpus has them: token ranges. Found again through the document's sentences.
fn word_ranges(sampler: &Sampler, ids: &[u32], table: &BTreeMap<Vec<u32>, Vec<bool>>) -> Option<Vec<std::ops::Range<usize>>> {
    let continues = table.get(&ids[1..ids.len() - 1])?;
    let _ = sampler;
    let mut words: Vec<std::ops::Range<usize>> = Vec::new();
    for (i, &continues) in continues.iter().enumerate() {
        match words.last_mut() {
            Some(word) if continues => word.end = i + 2,
            _ => words.push(i + 1..i + 2),
        }
    }
    Some(words)
}

#[test]
fn words_are_masked_whole_in_english_chinese_and_mixed_text() {
    let tokenizer = tokenizer();
    for masking in [Masking::WholeWord, Masking::Span] {
        let sampler = sampler(200, ObjectiveConfig { masking, ..ObjectiveConfig::default() }, 5);
        // Runs of whole sentences, by their ids.
        let mut table = BTreeMap::new();
        for document in 0..sampler.dataset().documents() {
            let sentences = sampler.dataset().sentences(document).unwrap();
            for first in 0..sentences.len() {
                let (mut ids, mut continues) = (Vec::new(), Vec::new());
                for sentence in &sentences[first..] {
                    ids.extend(sentence.ids());
                    continues.extend((0..sentence.len()).map(|i| sentence.continues(i)));
                    table.insert(ids.clone(), continues.clone());
                }
            }
        }
        let (mut checked, mut chinese, mut unknown, mut cursor) = (0, 0, 0, 0);
        for _ in 0..60 {
            let (batch, next) = sampler.batch(cursor, LIMITS).unwrap();
            cursor = next;
            let mut is_masked = vec![false; batch.tokens()];
            batch.masked_rows.iter().for_each(|&row| is_masked[row as usize] = true);
            for (s, range) in batch.sequences.ranges().enumerate() {
                let ids = original(&batch, s);
                let Some(words) = word_ranges(&sampler, &ids, &table) else { continue };
                for word in words {
                    let masked: Vec<bool> = word.clone().map(|i| is_masked[range.start + i]).collect();
                    assert!(masked.iter().all(|&m| m == masked[0]), "{masking:?}: a word is masked in part: {masked:?}");
                    let pieces: Vec<String> = word.map(|i| tokenizer.id_to_token(ids[i]).unwrap()).collect();
                    checked += usize::from(pieces.len() > 1 && masked[0]);
                    chinese += usize::from(masked[0] && pieces.len() > 1 && pieces[0].chars().all(cloze_text::sentence::is_han));
                    unknown += usize::from(pieces.iter().any(|p| p == "[UNK]") && pieces.len() > 1);
                }
            }
        }
        assert!(checked > 300 && chinese > 100 && unknown > 50, "{masking:?}: {checked} {chinese} {unknown}");
    }
}

#[test]
fn next_sentences_are_true_in_half_of_the_pairs() {
    let config = ObjectiveConfig { sentence_objective: SentenceObjective::NextSentence, ..ObjectiveConfig::default() };
    let sampler = sampler(200, config, 2);
    let dataset = Arc::clone(sampler.dataset());
    let documents: Vec<Vec<u32>> =
        (0..dataset.documents()).map(|d| dataset.sentences(d).unwrap().into_iter().flat_map(|s| s.ids()).collect()).collect();
    let contains = |ids: &[u32]| documents.iter().any(|document| document.windows(ids.len()).any(|window| window == ids));
    let (mut labels, mut cursor) = ([0usize; 2], 0);
    for _ in 0..12 {
        let (batch, next) = sampler.batch(cursor, LIMITS).unwrap();
        check_shape(&batch);
        cursor = next;
        assert_eq!(batch.sequence_labels.len(), batch.sequences.count());
        for (s, range) in batch.sequences.ranges().enumerate() {
            let ids = original(&batch, s);
            let middle = ids.iter().position(|&id| id == sampler.vocabulary().sep).unwrap();
            let types = &batch.token_type_ids[range];
            assert!(types[..=middle].iter().all(|&t| t == 0) && types[middle + 1..].iter().all(|&t| t == 1));
            let label = batch.sequence_labels[s] as usize;
            labels[label] += 1;
            assert!(ids.len() > middle + 2, "the second segment holds text");
            let joined = [&ids[1..middle], &ids[middle + 1..ids.len() - 1]].concat();
            // Between segments of a word or two a false continuation may be the true one by chance.
            let short = middle < 10 || ids.len() - middle < 12;
            assert!(contains(&joined) == (label == 0) || short && label == 1, "label {label}: {ids:?}");
        }
    }
    let share = labels[1] as f64 / (labels[0] + labels[1]) as f64;
    assert!((share - 0.5).abs() < 0.12, "{labels:?}");
}

#[test]
fn swapped_segments_are_labelled() {
    let config = ObjectiveConfig { sentence_objective: SentenceObjective::SentenceOrder, ..ObjectiveConfig::default() };
    let sampler = sampler(200, config, 2);
    let plain: Vec<Vec<u32>> = (0..sampler.dataset().documents())
        .map(|d| sampler.dataset().sentences(d).unwrap().into_iter().flat_map(|s| s.ids()).collect())
        .collect();
    let (mut labels, mut cursor) = ([0usize; 2], 0);
    for _ in 0..12 {
        let (batch, next) = sampler.batch(cursor, LIMITS).unwrap();
        cursor = next;
        for s in 0..batch.sequences.count() {
            let ids = original(&batch, s);
            let middle = ids.iter().position(|&id| id == sampler.vocabulary().sep).unwrap();
            let (first, second) = (&ids[1..middle], &ids[middle + 1..ids.len() - 1]);
            let label = batch.sequence_labels[s] as usize;
            labels[label] += 1;
            let joined = if label == 0 { [first, second].concat() } else { [second, first].concat() };
            assert!(plain.iter().any(|document| document.windows(joined.len()).any(|window| window == joined)));
        }
    }
    assert!(labels[0] > 60 && labels[1] > 60, "{labels:?}");
}

#[test]
fn evaluation_reads_each_sample_once_with_fixed_masks() {
    let sampler = sampler(100, ObjectiveConfig::default(), 9);
    let batches: Vec<Batch> = sampler.evaluation(LIMITS).collect::<Result<_, _>>().unwrap();
    let again: Vec<Batch> = sampler.evaluation(LIMITS).collect::<Result<_, _>>().unwrap();
    assert_eq!(batches, again);
    let sequences: usize = batches.iter().map(|batch| batch.sequences.count()).sum();
    assert_eq!(sequences as u64, sampler.samples(64).unwrap());
    let tokens: usize = batches.iter().map(|batch| batch.tokens() - 2 * batch.sequences.count()).sum();
    assert_eq!(tokens as u64, sampler.dataset().tokens());
    // How batches are cut changes no mask.
    let one: Vec<Batch> = sampler.evaluation(Limits { tokens: 1, sequence_length: 64 }).collect::<Result<_, _>>().unwrap();
    let joined: Vec<u32> = one.iter().flat_map(|batch| batch.input_ids.clone()).collect();
    let expected: Vec<u32> = batches.iter().flat_map(|batch| batch.input_ids.clone()).collect();
    assert_eq!(joined, expected);
}

#[test]
fn masks_can_be_looked_at() {
    let config = ObjectiveConfig {
        masking: Masking::WholeWord,
        sentence_objective: SentenceObjective::NextSentence,
        mask_probability: 0.3,
        ..ObjectiveConfig::default()
    };
    let sampler = sampler(90, config, 4);
    let tokenizer = tokenizer();
    let examples = show_masks(&sampler, &tokenizer, 64, 20).unwrap();
    assert_eq!(examples.len(), 20);
    let mut kinds = BTreeMap::new();
    for example in &examples {
        assert_eq!(example.pieces[0].shown, "[CLS]");
        assert!(example.sentence_label.is_some());
        for (label, replacement) in example.pieces.iter().filter_map(|piece| piece.predicted.as_ref()) {
            assert!(tokenizer.token_to_id(label).is_some());
            *kinds.entry(format!("{replacement:?}")).or_insert(0) += 1;
            let _: &Replacement = replacement;
        }
        let plain = example.render(80, false);
        assert!(!plain.contains('\x1b') && plain.contains("tokens are predicted"));
        assert!(example.render(80, true).contains("\x1b["));
        assert!(plain.contains("[MASK]→") || plain.contains('='));
    }
    assert_eq!(kinds.len(), 3, "all three replacements are seen: {kinds:?}");
}

#[test]
fn settings_out_of_range_are_refused() {
    let (_folder, path, _) = corpus(1, |options| options.holdout = 0.0);
    let dataset = Arc::new(Dataset::open(&path, Split::Train).unwrap());
    let vocabulary = Vocabulary::of(&tokenizer()).unwrap();
    let new = |config| Sampler::new(Arc::clone(&dataset), config, vocabulary.clone(), 0).map(|_| ()).unwrap_err().to_string();
    assert!(new(ObjectiveConfig { mask_probability: 1.5, ..ObjectiveConfig::default() }).contains("mask_probability = 1.5"));
    assert!(new(ObjectiveConfig { mask_share: 0.8, random_share: 0.4, ..ObjectiveConfig::default() }).contains("at most 1"));
    let next = ObjectiveConfig { sentence_objective: SentenceObjective::NextSentence, ..ObjectiveConfig::default() };
    assert!(new(next).contains("at least 2 documents"));
    let sampler = Sampler::new(Arc::clone(&dataset), ObjectiveConfig::default(), vocabulary.clone(), 0).unwrap();
    assert!(sampler.batch(0, Limits { tokens: 100, sequence_length: 7 }).unwrap_err().to_string().contains("sequence_length = 7"));
    let other = Vocabulary { size: vocabulary.size + 1, ..vocabulary };
    assert!(Sampler::new(dataset, ObjectiveConfig::default(), other, 0).is_err());
}

#[test]
fn a_changing_length_does_not_pile_up_tables() {
    let sampler = sampler(60, ObjectiveConfig::default(), 1);
    let first = sampler.samples(16).unwrap();
    (16..64).for_each(|length| assert!(sampler.samples(length).unwrap() > 0));
    assert_eq!(sampler.samples(16).unwrap(), first);
    assert!(format!("{sampler:?}").matches("SampleTable {").count() <= 3);
}
