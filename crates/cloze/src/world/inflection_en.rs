//! Forms of English words: verbs by tense and subject, articles by sound, capitals.

/// Number and person of a subject, as far as verbs tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreement {
    First,
    Third,
    Plural,
}

const IRREGULAR: [(&str, &str); 50] = [
    ("go", "went"),
    ("do", "did"),
    ("have", "had"),
    ("eat", "ate"),
    ("bring", "brought"),
    ("buy", "bought"),
    ("drink", "drank"),
    ("make", "made"),
    ("take", "took"),
    ("see", "saw"),
    ("hear", "heard"),
    ("come", "came"),
    ("get", "got"),
    ("leave", "left"),
    ("say", "said"),
    ("tell", "told"),
    ("think", "thought"),
    ("find", "found"),
    ("give", "gave"),
    ("run", "ran"),
    ("win", "won"),
    ("lose", "lost"),
    ("throw", "threw"),
    ("sing", "sang"),
    ("write", "wrote"),
    ("read", "read"),
    ("sit", "sat"),
    ("stand", "stood"),
    ("forget", "forgot"),
    ("begin", "began"),
    ("feel", "felt"),
    ("keep", "kept"),
    ("pay", "paid"),
    ("put", "put"),
    ("hold", "held"),
    ("hang", "hung"),
    ("spend", "spent"),
    ("meet", "met"),
    ("know", "knew"),
    ("shake", "shook"),
    ("teach", "taught"),
    ("lead", "led"),
    ("show", "showed"),
    ("speak", "spoke"),
    ("cut", "cut"),
    ("fall", "fell"),
    ("fly", "flew"),
    ("lend", "lent"),
    ("sell", "sold"),
    ("break", "broke"),
];
/// Verbs whose last consonant doubles.
const DOUBLING: [&str; 7] = ["plan", "stop", "hum", "clap", "nod", "step", "regret"];

pub(super) fn past(verb: &str) -> String {
    if let Some((_, form)) = IRREGULAR.iter().find(|(base, _)| *base == verb) {
        return (*form).to_owned();
    }
    if DOUBLING.contains(&verb) {
        return format!("{verb}{}ed", &verb[verb.len() - 1..]);
    }
    match verb.as_bytes() {
        [.., b'e'] => format!("{verb}d"),
        [.., before, b'y'] if !b"aeiou".contains(before) => format!("{}ied", &verb[..verb.len() - 1]),
        _ => format!("{verb}ed"),
    }
}

pub(super) fn third_person(verb: &str) -> String {
    match verb {
        "have" => "has".to_owned(),
        _ if ["s", "sh", "ch", "x", "z", "o"].iter().any(|end| verb.ends_with(end)) => format!("{verb}es"),
        _ => match verb.as_bytes() {
            [.., before, b'y'] if !b"aeiou".contains(before) => format!("{}ies", &verb[..verb.len() - 1]),
            _ => format!("{verb}s"),
        },
    }
}

/// The form of `verb` in the past or the present tense.
pub(super) fn inflect(verb: &str, agreement: Agreement, is_past: bool) -> String {
    match (verb, is_past, agreement) {
        ("be", true, Agreement::Plural) => "were".to_owned(),
        ("be", true, _) => "was".to_owned(),
        ("be", false, Agreement::First) => "am".to_owned(),
        ("be", false, Agreement::Third) => "is".to_owned(),
        ("be", false, Agreement::Plural) => "are".to_owned(),
        (_, true, _) => past(verb),
        (_, false, Agreement::Third) => third_person(verb),
        (_, false, _) => verb.to_owned(),
    }
}

/// Whether "an" goes before the word: by sound, so not before "user" or "one".
pub(super) fn takes_an(word: &str) -> bool {
    const CONSONANT_SOUND: [&str; 9] = ["unif", "uniq", "univ", "unic", "use", "usu", "euro", "one", "uku"];
    const SILENT_H: [&str; 4] = ["hour", "honest", "heir", "honour"];
    let word = word.to_lowercase();
    let starts = |list: &[&str]| list.iter().any(|start| word.starts_with(start));
    starts(&SILENT_H) || (word.starts_with(['a', 'e', 'i', 'o', 'u']) && !starts(&CONSONANT_SOUND))
}

/// Makes a sentence of filled-in patterns: articles by the next word's sound, a capital at the start.
pub(super) fn finish(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').filter(|w| !w.is_empty()).collect();
    let mut sentence = String::with_capacity(text.len() + 4);
    for (i, word) in words.iter().enumerate() {
        let article = *word == "a" || *word == "an";
        let word = match words.get(i + 1) {
            Some(next) if article => {
                if takes_an(next) {
                    "an"
                } else {
                    "a"
                }
            }
            _ => word,
        };
        if i == 0 {
            let mut chars = word.chars();
            sentence.extend(chars.next().into_iter().flat_map(char::to_uppercase));
            sentence.push_str(chars.as_str());
        } else {
            sentence.push(' ');
            sentence.push_str(word);
        }
    }
    sentence
}
