use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::inflection_en::{past, takes_an, third_person};
use super::labels::carries;
use super::lexicon::{Class, Role, Tone};
use super::*;

const TRAIN: usize = 400;
const TEST: usize = 1000;

fn lexicon(world: &World, language: Language) -> &Lexicon {
    match language {
        Language::English => &world.english,
        Language::Chinese => &world.chinese,
    }
}

/// Words of English, characters of Chinese: what a bag-of-words reader sees.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = vec![String::new()];
    for c in text.to_lowercase().chars() {
        if c.is_ascii() && (c.is_alphanumeric() || c == '-') || c == 'é' {
            tokens.last_mut().unwrap().push(c);
        } else {
            tokens.push(if c.is_alphanumeric() { c.to_string() } else { String::new() });
            tokens.push(String::new());
        }
    }
    tokens.retain(|t| !t.is_empty());
    tokens
}

/// Accuracy of multinomial naive Bayes (add-one) that learns from `train` alone.
fn naive_bayes(train: &[Labelled], test: &[Labelled]) -> f64 {
    let mut counts: BTreeMap<&str, (HashMap<String, f64>, f64)> = BTreeMap::new();
    let mut vocabulary = HashSet::new();
    for row in train {
        let (words, total) = counts.entry(row.label).or_default();
        for token in tokens(&row.text) {
            vocabulary.insert(token.clone());
            *words.entry(token).or_default() += 1.0;
            *total += 1.0;
        }
    }
    let right = test.iter().filter(|row| {
        let score = |label: &str| -> f64 {
            let (words, total) = &counts[label];
            let known = tokens(&row.text).into_iter().filter(|t| vocabulary.contains(t));
            known.map(|t| ((words.get(&t).unwrap_or(&0.0) + 1.0) / (total + vocabulary.len() as f64)).ln()).sum()
        };
        let best = counts.keys().max_by(|a, b| score(a).total_cmp(&score(b)));
        best == Some(&row.label)
    });
    right.count() as f64 / test.len() as f64
}

/// Reads a sentence from its surface with the lexicon at hand: finds known phrases (the longest first), and knows which
/// half of a contrast counts and what a negation does.
struct Oracle {
    phrases: HashMap<Vec<String>, Class>,
    longest: usize,
}

impl Oracle {
    fn new(world: &World) -> Self {
        let mut phrases = HashMap::new();
        for language in [Language::English, Language::Chinese] {
            for (class, words) in lexicon(world, language).classes() {
                if matches!(class, Class::Topic(_, Role::Act | Role::Event)) {
                    continue;
                }
                for word in words {
                    phrases.insert(tokens(&word.text), class);
                    if matches!(class, Class::Tone(_, Tone::Attitude)) && language == Language::English {
                        phrases.insert(tokens(&past(&word.text)), class);
                        phrases.insert(tokens(&third_person(&word.text)), class);
                    }
                }
            }
        }
        let longest = phrases.keys().map(Vec::len).max().unwrap();
        Self { phrases, longest }
    }

    fn found(&self, text: &str) -> Vec<(usize, Class)> {
        let tokens = tokens(text);
        let (mut found, mut i) = (Vec::new(), 0);
        while i < tokens.len() {
            let ends = (i + 1..=tokens.len().min(i + self.longest)).rev();
            match ends.into_iter().find_map(|end| Some((end, *self.phrases.get(&tokens[i..end])?))) {
                Some((end, class)) => {
                    found.push((i, class));
                    i = end;
                }
                None => i += 1,
            }
        }
        found
    }

    fn topic(&self, text: &str) -> Option<&'static str> {
        let mut votes: BTreeMap<Topic, usize> = BTreeMap::new();
        for (_, class) in self.found(text) {
            if let Class::Topic(topic, _) = class {
                *votes.entry(topic).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|(_, n)| *n).map(|(topic, _)| topic.name())
    }

    fn sentiment(&self, text: &str) -> &'static str {
        let text = text.to_lowercase();
        let mut counts = text.as_str();
        if let Some((before, _)) = counts.split_once(", even though ") {
            counts = before;
        } else if counts.starts_with("although ") {
            counts = counts.split_once(", ").map_or(counts, |(_, after)| after);
        } else if counts.starts_with("虽然") || counts.starts_with("尽管") {
            counts = counts.split_once('，').map_or(counts, |(_, after)| after);
        }
        for but in [", but ", "，但是", "，不过", "，可是", "，但"] {
            counts = counts.split_once(but).map_or(counts, |(_, after)| after);
        }
        let mut sum = 0i32;
        for clause in counts.split([',', '，']) {
            let clause = clause.split(" because ").flat_map(|c| c.split(" and "));
            for clause in clause {
                let negated = [" not ", " never ", " far from ", "并不", "一点也不", "谈不上"].iter().any(|n| clause.contains(n));
                for (_, class) in self.found(clause) {
                    if let Class::Tone(polarity, _) = class {
                        sum += if (polarity == Polarity::Positive) != negated { 1 } else { -1 };
                    }
                }
            }
        }
        if sum >= 0 { "positive" } else { "negative" }
    }
}

#[test]
fn same_seed_same_world() {
    let (a, b, c) = (World::new(7), World::new(7), World::new(8));
    let read = |world: &World| world.documents(0.5, 50_000).collect::<Vec<_>>();
    assert_eq!(read(&a), read(&b));
    assert_ne!(read(&a), read(&c));
    for task in Task::ALL {
        assert_eq!(a.labelled(task, 50, Split::Dev), b.labelled(task, 50, Split::Dev));
        assert_ne!(a.labelled(task, 50, Split::Dev), c.labelled(task, 50, Split::Dev));
    }
    // Asking for more text continues the same text.
    let short: Vec<_> = a.documents(0.5, 20_000).collect();
    assert_eq!(short[..], read(&a)[..short.len()]);
}

#[test]
fn documents_have_the_promised_size_and_mix() {
    let world = World::new(1);
    for (share, bytes) in [(0.0, 60_000u64), (0.5, 200_000), (0.8, 200_000), (1.0, 60_000)] {
        let (mut english, mut total) = (0u64, 0u64);
        let mut seen = HashSet::new();
        for document in world.documents(share, bytes) {
            let n = document.text.matches(['.', '!', '。', '！']).count();
            assert!((4..=12).contains(&n), "{n} sentences: {}", document.text);
            assert!(!document.text.contains(['\n', '\t']), "{}", document.text);
            total += document.text.len() as u64;
            english += if document.language == Language::English { document.text.len() as u64 } else { 0 };
            seen.insert(document.text);
        }
        assert!((bytes..bytes + 4000).contains(&total), "{total} bytes instead of {bytes}");
        assert!((english as f64 / total as f64 - share).abs() < 0.02, "{english} of {total} bytes, wanted {share}");
        assert!(seen.len() > 100, "only {} documents", seen.len());
    }
}

#[test]
fn labels_and_languages_are_balanced() {
    let world = World::new(1);
    for task in Task::ALL {
        for split in Split::ALL {
            let rows = world.labelled(task, 300, split);
            assert_eq!(rows.len(), 300);
            for label in task.labels() {
                let n = rows.iter().filter(|row| row.label == label).count();
                assert_eq!(n, 300 / task.labels().len(), "{label}");
                let english = rows.iter().filter(|row| row.label == label && row.language == Language::English).count();
                assert_eq!(english, n / 2, "{label} in English");
            }
            let first: BTreeSet<&str> = rows.iter().take(20).map(|row| row.label).collect();
            assert!(first.len() > 1, "the order tells the label");
        }
    }
}

#[test]
fn no_sentence_is_in_two_splits() {
    let world = World::new(1);
    for task in Task::ALL {
        let mut seen = HashSet::new();
        for (split, n) in [(Split::Train, TRAIN), (Split::Dev, 200), (Split::Test, TEST)] {
            for row in world.labelled(task, n, split) {
                assert!(seen.insert(row.text.clone()), "twice: {}", row.text);
            }
        }
    }
}

#[test]
fn the_lexicon_is_unambiguous_and_leaves_no_split_out() {
    for seed in 0..4 {
        let world = World::new(seed);
        for language in [Language::English, Language::Chinese] {
            let mut owner: HashMap<String, Class> = HashMap::new();
            let mut split_of: HashMap<(String, bool), Split> = HashMap::new();
            for (class, words) in lexicon(&world, language).classes() {
                for split in Split::ALL {
                    assert!(words.iter().any(|w| w.split == split), "{class:?} has no word for {split:?}, seed {seed}");
                }
                for word in words {
                    let before = owner.insert(word.text.clone(), class);
                    let same = match (before, class) {
                        (None, _) => true,
                        (Some(Class::Tone(a, _)), Class::Tone(b, _)) => a == b,
                        _ => false,
                    };
                    assert!(same, "{} is both {class:?} and {before:?}", word.text);
                    let tone = matches!(class, Class::Tone(..));
                    let split = split_of.insert((word.text.clone(), tone), word.split).unwrap_or(word.split);
                    assert_eq!(split, word.split, "{} belongs to two splits, seed {seed}", word.text);
                }
            }
        }
    }
}

/// Every English sentence of a good piece of corpus and of all labelled data.
fn english_sentences(world: &World) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    for document in world.documents(1.0, 700_000) {
        let marked = document.text.replace(". ", ".\n").replace("! ", "!\n");
        sentences.extend(marked.lines().map(str::to_owned));
    }
    for task in Task::ALL {
        let rows = world.labelled(task, 500, Split::Test);
        sentences.extend(rows.into_iter().filter(|r| r.language == Language::English).map(|r| r.text));
    }
    sentences
}

#[test]
fn english_articles_verbs_and_punctuation_are_right() {
    let world = World::new(3);
    let sentences = english_sentences(&world);
    assert!(sentences.len() > 8_000, "{} sentences", sentences.len());
    let (mut plural, mut singular) = (Vec::new(), Vec::new());
    for (class, words) in world.english.classes() {
        if matches!(class, Class::Topic(_, Role::Thing | Role::Person | Role::Prop)) {
            let (p, s): (Vec<_>, Vec<_>) = words.iter().partition(|w| w.note == "p");
            plural.extend(p.into_iter().map(|w| w.text.clone()));
            singular.extend(s.into_iter().map(|w| w.text.clone()));
        }
    }
    let mut articles = [0usize; 2];
    for sentence in &sentences {
        assert!(sentence.starts_with(|c: char| c.is_uppercase()), "{sentence}");
        assert!(sentence.ends_with(['.', '!']), "{sentence}");
        assert!(!sentence.contains(['{', '}', '<', '>', '_', '[']) && !sentence.contains("  "), "{sentence}");
        let words: Vec<&str> = sentence.split([' ', ',', '.', '!']).filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']) && pair[1] != "user"
                || matches!(pair[1], "honest" | "hour");
            match pair[0].to_lowercase().as_str() {
                "a" => assert!(!vowel, "{sentence}"),
                "an" => assert!(vowel, "{sentence}"),
                "i" => assert!(!matches!(pair[1], "is" | "are" | "were" | "has" | "does"), "{sentence}"),
                "we" | "they" | "these" | "those" => assert!(!matches!(pair[1], "is" | "was" | "am" | "has"), "{sentence}"),
                "he" | "she" | "it" => assert!(!matches!(pair[1], "are" | "were" | "am" | "have"), "{sentence}"),
                "this" | "that" => assert!(!matches!(pair[1], "are" | "were"), "{sentence}"),
                _ => {}
            }
            articles[0] += usize::from(pair[0] == "a");
            articles[1] += usize::from(pair[0] == "an");
        }
    }
    assert!(articles[0] > 500 && articles[1] > 50, "{articles:?}");
    let all = sentences.join("\n").to_lowercase();
    let mut agreed = 0;
    for (nouns, wrong, right) in [(&plural, ["is", "was", "leaves", "turns"], "were"), (&singular, ["are", "were", "leave", "turn"], "was")]
    {
        for noun in nouns {
            for verb in wrong {
                // Two nouns joined by "and" are plural.
                let (alone, joined) = (format!("the {noun} {verb} "), format!("and the {noun} {verb} "));
                let allowed = if right == "was" { all.matches(&joined).count() } else { 0 };
                assert_eq!(all.matches(&alone).count(), allowed, "the {noun} {verb}");
            }
            agreed += all.matches(&format!("the {noun} {right} ")).count();
        }
    }
    assert!(agreed > 500, "only {agreed} agreements seen");
}

#[test]
fn verbs_and_articles_by_rule() {
    for (base, is_past, third) in [
        ("carry", "carried", "carries"),
        ("plan", "planned", "plans"),
        ("watch", "watched", "watches"),
        ("go", "went", "goes"),
        ("play", "played", "plays"),
        ("notice", "noticed", "notices"),
        ("have", "had", "has"),
        ("regret", "regretted", "regrets"),
    ] {
        assert_eq!((past(base).as_str(), third_person(base).as_str()), (is_past, third));
    }
    for (word, an) in [("apple", true), ("user", false), ("hour", true), ("unimpressive", true), ("unique", false), ("map", false)] {
        assert_eq!(takes_an(word), an, "{word}");
    }
}

#[test]
fn chinese_sentences_are_whole() {
    let world = World::new(3);
    let mut n = 0;
    for document in world.documents(0.0, 500_000) {
        assert!(document.text.ends_with(['。', '！']), "{}", document.text);
        for sentence in document.text.split_inclusive(['。', '！']) {
            n += 1;
            let foreign = sentence.chars().find(|c| c.is_ascii());
            assert_eq!(foreign, None, "{sentence}");
            for wrong in ["的的", "了了", "，，", "很很", "，。", "不不", "是是"] {
                assert!(!sentence.contains(wrong), "{wrong} in {sentence}");
            }
        }
    }
    assert!(n > 8_000, "{n} sentences");
}

#[test]
fn facts_can_be_learned_from_the_corpus() {
    let world = World::new(1);
    let corpus: String = world.documents(0.5, 4_000_000).map(|d| d.text + "\n").collect();
    let probes = world.fill_mask_probes();
    assert!(probes.len() > 90);
    for probe in &probes {
        assert_eq!(probe.text.matches("[MASK]").count(), 1, "{}", probe.text);
        let short = match probe.language {
            Language::English => !probe.answer.contains(' '),
            Language::Chinese => probe.answer.chars().count() == 1,
        };
        assert!(short, "{}: {}", probe.text, probe.answer);
        let statement = probe.text.replace("[MASK]", &probe.answer);
        let n = corpus.matches(&statement).count();
        assert!(n >= 15, "{statement} stands only {n} times in the corpus");
    }
}

/// What makes the world worth its name: the labels alone are not enough, the lexicon is.
#[test]
fn labels_alone_teach_little_and_the_lexicon_everything() {
    for seed in [1, 2, 3] {
        let world = World::new(seed);
        let oracle = Oracle::new(&world);
        for task in Task::ALL {
            let train = world.labelled(task, TRAIN, Split::Train);
            let written = world.written(task, TEST, Split::Test);
            let seen: HashSet<String> =
                world.written(task, TRAIN, Split::Train).into_iter().flat_map(|w| w.used.into_iter().map(|(_, word)| word.text)).collect();
            let carriers = written.iter().flat_map(|w| &w.used).filter(|(class, _)| carries(task, *class));
            let (mut unseen, mut total) = (0usize, 0usize);
            for (_, word) in carriers {
                total += 1;
                unseen += usize::from(!seen.contains(&word.text));
            }
            let unseen = unseen as f64 / total as f64;
            let test: Vec<Labelled> = written.into_iter().map(|w| w.row).collect();
            let bayes = naive_bayes(&train, &test);
            let by = |language| {
                let of = |rows: &[Labelled]| rows.iter().filter(|r| r.language == language).cloned().collect::<Vec<_>>();
                naive_bayes(&of(&train), &of(&test))
            };
            let known = test.iter().filter(|row| {
                let answer = match task {
                    Task::Sentiment => Some(oracle.sentiment(&row.text)),
                    Task::Topic => oracle.topic(&row.text),
                };
                answer == Some(row.label)
            });
            let known = known.count() as f64 / TEST as f64;
            let more = naive_bayes(&world.labelled(task, 3000, Split::Train), &test);
            println!(
                "seed {seed} {}: naive Bayes {:.3} (en {:.3}, zh {:.3}; with 3000 labels {more:.3}), oracle {known:.3}, unseen {unseen:.3}",
                task.name(),
                bayes,
                by(Language::English),
                by(Language::Chinese),
            );
            assert!(unseen > 0.65, "{task:?}: share of unseen words {unseen}");
            assert!(bayes < 0.8, "{task:?}: naive Bayes {bayes}");
            assert!(known >= 0.97, "{task:?}: oracle {known}");
        }
    }
}

#[test]
fn files_have_headers_and_rows() {
    let dir = std::env::temp_dir().join(format!("cloze-world-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let sizes = Sizes { corpus_bytes: 30_000, english_share: 0.5, train: 30, dev: 20, test: 40 };
    let files = World::new(5).write(&dir, &sizes).unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    for table in [&files.sentiment, &files.topic] {
        for (path, n) in table.iter().zip([30, 20, 40]) {
            let text = read(path);
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some("text\tlabel"));
            let rows: Vec<&str> = lines.collect();
            assert_eq!(rows.len(), n);
            assert!(rows.iter().all(|row| row.split('\t').count() == 2));
        }
    }
    let corpus = read(&files.corpus);
    assert!(corpus.len() >= 30_000 && corpus.split("\n\n").all(|d| !d.trim().is_empty() && d.trim().lines().count() == 1));
    for line in read(&files.probes).lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(row["text"].as_str().unwrap().contains("[MASK]") && row["answer"].is_string());
    }
    std::fs::remove_dir_all(&dir).unwrap();
    let error = World::new(5).write(&dir, &sizes).unwrap_err();
    assert!(error.to_string().contains("corpus.txt"), "{error}");
}
