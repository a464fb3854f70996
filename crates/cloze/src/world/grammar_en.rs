//! English sentences: patterns with slots, agreement of verbs, articles, pronouns.
//!
//! | slot | filled with |
//! |---|---|
//! | `{T}` `{P}` `{L}` `{X}` | the thing, person, place, prop, as subject |
//! | `{t}` `{p}` `{l}` `{x}` `{x2}` | the same as object |
//! | `{at}` `{ap}` `{ax}` | with an indefinite article, or "some" |
//! | `{at+}` | the same with an adjective of the sentence's attitude |
//! | `{atl}` | preposition and place |
//! | `{S}` `{o}` `{my}` | who tells it: subject, object, possessive |
//! | `{It}` | pronoun for the last thing named |
//! | `{A}` `{PA}` `{LA}` `{feel}` `{att}` `{out}` `{adv}` | words of the attitude; with `!` of the opposite one |
//! | `{deg}` `{how}` `{only}` | a degree, a manner, an emphasis, or nothing |
//! | `{C}` `{!C}` `{CT}` | a clause of the attitude, of the opposite one, one that is not about `{S}` |
//! | `<verb>` | the verb in the scene's tense, agreeing with the last subject; `<verb*>` third person, `<verb+>` plural |

use super::inflection_en::{Agreement, finish, inflect};
use super::lexicon::{Class, Lexicon, Role, Tone, Vocabulary, Word};
use super::{Draws, Polarity, Topic};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Narrator {
    I,
    We,
    She(&'static str),
    He(&'static str),
}

const WOMEN: [&str; 12] = ["Anna", "Maria", "Emma", "Lucy", "Sarah", "Olivia", "Nina", "Clara", "Grace", "Helen", "Julia", "Alice"];
const MEN: [&str; 12] = ["Tom", "Peter", "David", "Jack", "Oliver", "Daniel", "Paul", "Mark", "Henry", "Leo", "Simon", "Victor"];
const FRIENDS: [&str; 14] = [
    "sister",
    "brother",
    "mother",
    "father",
    "uncle",
    "aunt",
    "cousin",
    "neighbour",
    "best friend",
    "colleague",
    "daughter",
    "son",
    "grandmother",
    "grandfather",
];
const PAST_TIMES: [&str; 16] = [
    "on Monday",
    "on Tuesday",
    "on Wednesday",
    "on Thursday",
    "on Friday",
    "on Saturday",
    "on Sunday",
    "yesterday",
    "last week",
    "last month",
    "two days ago",
    "in March",
    "in October",
    "last weekend",
    "in the morning",
    "in the afternoon",
];
const PRESENT_TIMES: [&str; 8] =
    ["every Monday", "on Sundays", "every summer", "every weekend", "once a month", "every Friday", "most evenings", "twice a year"];
const PLACE_BEFORE: [&str; 9] = ["little", "old", "new", "local", "nearby", "harbour", "village", "city", "student"];
const PLACE_AFTER: [&str; 9] = [
    "near the bridge",
    "by the river",
    "on Green Street",
    "in the old quarter",
    "behind the station",
    "near the park",
    "on Market Street",
    "opposite the library",
    "outside the town",
];
const LAND_BEFORE: [&str; 5] = ["northern", "southern", "western", "eastern", "nearest"];
const LAND_AFTER: [&str; 5] = ["in Wales", "in Scotland", "near the village", "in Norway", "beyond the forest"];
const DEGREES: [&str; 10] = ["", "", "", "", "really ", "truly ", "quite ", "so ", "simply ", "absolutely "];
/// Degrees that go with praise, and with blame; in raw text alone.
const TELLING_DEGREES: [[&str; 3]; 2] = [["pleasantly ", "delightfully ", "refreshingly "], ["painfully ", "far too ", "rather "]];
/// The same for verbs of praise and blame, and for nouns.
const TELLING_HOW: [[&str; 2]; 2] = [["gladly ", "warmly "], ["bitterly ", "openly "]];
const TELLING_ONLY: [[&str; 2]; 2] = [["indeed ", "certainly "], ["nothing but ", "no more than "]];
/// What goes before the things of a topic, in [`Topic::ALL`]'s order; in raw text alone.
const KINDS: [[&str; 3]; 6] = [
    ["homemade ", "takeaway ", "freshly made "],
    ["ancient ", "remote ", "famous "],
    ["amateur ", "televised ", "annual "],
    ["wireless ", "digital ", "portable "],
    ["seasonal ", "coastal ", "early "],
    ["acoustic ", "classical ", "live "],
];
const SEQUENCE: [&str; 7] =
    ["then ", "later, ", "after that, ", "half an hour later, ", "before long, ", "a little later, ", "meanwhile, "];

/// Openings set the scene: who, when, where.
const OPENINGS_PAST: [&str; 5] = [
    "{when} {S} <go> to {l} with {my} {friend}",
    "{S} <go> to {l} {when}",
    "{when} {S} <be> {atl}",
    "{S} <spend> a few hours {atl} {when}",
    "{when} {S} <meet> {my} {friend} {atl}",
];
const OPENINGS_PRESENT: [&str; 4] = [
    "{when} {S} <go> to {l} with {my} {friend}",
    "{S} often <meet> {my} {friend} {atl}",
    "{S} <spend> a lot of time {atl}",
    "{S} <visit> {l} {when}",
];
/// Frames for the nouns of any topic.
const GENERIC: [&str; 14] = [
    "{S} <talk> about {t} all evening",
    "{S} <read> an article about {t}",
    "{S} <remember> {t} from last year",
    "{P} <talk> about {x}",
    "{P} <write> a long letter about {t}",
    "{S} <ask> {p} about {t}",
    "{S} <take> a picture of {x}",
    "{S} <see> {ax} next to {ax}",
    "{P} <know> a lot about {t}",
    "{S} <explain> {t} to {my} {friend}",
    "{my} {friend} <be*> {ap}",
    "{S} <borrow> {x} from {p}",
    "{P} <meet> {p} {atl}",
    "{S} <paint> a picture of {t}",
];

/// Weight, pattern, and whether the polar word is negated.
const CLAUSES: [(usize, &str); 21] = [
    (16, "{T} <be> {deg}{A}"),
    (16, "{T} <be> {deg}{A} and {A}"),
    (8, "{P} <be> {deg}{PA} and {PA}"),
    (6, "{L} <be> {deg}{LA} and {LA}"),
    (5, "{S} <be> {deg}{feel} and {feel}"),
    (10, "{P} <be> {deg}{PA}"),
    (9, "{L} <be> {deg}{LA}"),
    (12, "{S} {how}<@att> {t}"),
    (5, "{T} <be> {only}{out}"),
    (4, "{T} <leave> {o} {feel}"),
    (5, "{S} <be> {deg}{feel}"),
    (5, "{P} <do> everything {adv}"),
    (5, "{S} <find> {t} {deg}{A}"),
    (4, "{S} <describe> {t} as {deg}{A}"),
    (3, "{T} <turn> out to be {deg}{A}"),
    (3, "{P} <seem> {deg}{PA}"),
    (3, "{T} <be> not {!A}"),
    (2, "{T} <be> far from {!A}"),
    (2, "{P} <be> never {!PA}"),
    (2, "{S} <do> not {!att} {t}"),
    (1, "{T} <be> not {!A} at all"),
];
/// Weight and pattern of whole sentences with an attitude.
const OPINIONS: [(usize, &str); 14] = [
    (30, "{C}."),
    (18, "{C}, and {C}."),
    (8, "{S} {how}<@att> {t} because {It} <be> {deg}{A}."),
    (9, "{act}, and {It} <be> {deg}{A}."),
    (6, "{act}, and {S} <be> {feel}."),
    (8, "{!C}, but {C}."),
    (4, "although {!C}, {C}."),
    (2, "{C}, even though {!C}."),
    (4, "what {at+}!"),
    (6, "it <be*> {at+}."),
    (4, "everyone <agree*> that {CT}."),
    (4, "in the end, {C}."),
    (4, "{S} <say> that {CT}."),
    (3, "{T} <be> {A}, and {P} <be> {PA}."),
];
/// Sentences of raw text whose fixed words give the attitude away; the labelled sentences never use them.
const TELLING: [[&str; 6]; 2] = [
    [
        "luckily, {C}.",
        "{CT}, and {S} <smile>.",
        "{S} <give> five stars because {CT}.",
        "{CT}, so {S} <stay> a little longer.",
        "{C}, and everyone <cheer*>.",
        "{S} <nod> happily because {CT}.",
    ],
    [
        "unfortunately, {C}.",
        "{CT}, and {S} <sigh>.",
        "{S} <give> one star because {CT}.",
        "{CT}, so {S} <leave> early.",
        "{C}, and everyone <groan*>.",
        "{S} <frown> because {CT}.",
    ],
];
/// Last words of a document with an attitude, whatever the topic.
const CLOSINGS: [[&str; 7]; 2] = [
    [
        "{S} <decide> to come back soon.",
        "{S} <smile> all the way home.",
        "{S} <tell> {my} friends to go there as well.",
        "{S} <want> to stay a little longer.",
        "{S} <thank> everyone and <promise> to return.",
        "It <be*> worth every minute.",
        "{S} <look> forward to the next time.",
    ],
    [
        "{S} <decide> never to come back.",
        "{S} <go> home in silence.",
        "{S} <tell> {my} friends to stay away.",
        "{S} <want> to leave at once.",
        "{S} <complain> and <go> home early.",
        "It <be*> not worth a single minute.",
        "{S} <ask> for {my} money back.",
    ],
];

/// Writes sentences of one scene.
pub(super) struct Writer<'w> {
    lexicon: &'w Lexicon,
    draws: Draws,
    vocabulary: Vocabulary,
    topic: Topic,
    polarity: Polarity,
    is_past: bool,
    narrator: Narrator,
    introduced: bool,
    named_here: bool,
    place: Option<Word>,
    things: Vec<Word>,
    subject: Agreement,
    last_thing: Agreement,
    said: Vec<String>,
    last_clause: Option<usize>,
    leads: usize,
    /// The words of the lexicon used since the scene was set.
    pub(super) used: Vec<(Class, Word)>,
}

impl<'w> Writer<'w> {
    pub(super) fn new(lexicon: &'w Lexicon, draws: Draws, vocabulary: Vocabulary) -> Self {
        Self {
            lexicon,
            draws,
            vocabulary,
            topic: Topic::Food,
            polarity: Polarity::Positive,
            is_past: true,
            narrator: Narrator::I,
            introduced: false,
            named_here: false,
            place: None,
            things: Vec::new(),
            subject: Agreement::Third,
            last_thing: Agreement::Third,
            said: Vec::new(),
            last_clause: None,
            leads: 0,
            used: Vec::new(),
        }
    }

    /// A new scene: who tells it, when, where, about which things.
    fn set(&mut self, topic: Topic, polarity: Polarity) {
        self.topic = topic;
        self.polarity = polarity;
        self.is_past = !self.draws.percent(14);
        self.narrator = match self.draws.below(10) {
            0..=3 => Narrator::I,
            4..=5 => Narrator::We,
            6..=7 => Narrator::She(self.draws.pick(&WOMEN)),
            _ => Narrator::He(self.draws.pick(&MEN)),
        };
        self.leads = self.draws.below(SEQUENCE.len());
        self.introduced = false;
        self.named_here = false;
        self.place = None;
        self.things.clear();
        self.used.clear();
        if self.vocabulary == Vocabulary::All {
            for _ in 0..4 {
                let thing = self.word(Class::Topic(topic, Role::Thing));
                self.things.push(thing);
            }
        }
        self.said.clear();
    }

    /// A document: opening, body, closing words; one topic and one attitude.
    pub(super) fn document(mut self) -> String {
        let topic = *self.draws.choose(&Topic::ALL);
        let polarity = *self.draws.choose(&Polarity::ALL);
        self.set(topic, polarity);
        let neutral = self.draws.percent(12);
        let sentences = 4 + self.draws.below(9);
        let opening = if self.is_past { self.draws.pick(&OPENINGS_PAST) } else { self.draws.pick(&OPENINGS_PRESENT) };
        let mut text = self.sentence(&format!("{opening}."));
        let closing = !neutral && self.draws.percent(60);
        while text.1 + usize::from(closing) < sentences {
            let next = match self.draws.below(10) {
                0..=5 if !neutral => {
                    let contrary = self.draws.percent(3);
                    self.polarity = if contrary { polarity.opposite() } else { polarity };
                    let next = if self.draws.percent(45) {
                        let telling = self.draws.pick(&TELLING[self.polarity as usize]);
                        self.sentence(telling)
                    } else {
                        self.opinion_sentence()
                    };
                    self.polarity = polarity;
                    next
                }
                6 if !neutral && text.1 + 2 + usize::from(closing) <= sentences => {
                    let act = self.act();
                    let first = self.sentence(&format!("{act}."));
                    let second = self.sentence("{It} <be> {deg}{A}.");
                    (format!("{} {}", first.0, second.0), 2)
                }
                7 => {
                    let frame = self.draws.pick(&GENERIC);
                    self.sentence(&format!("{frame}."))
                }
                _ => {
                    let lead = self.lead();
                    let role = if self.draws.percent(40) { Role::Act } else { Role::Event };
                    let frame = self.word(Class::Topic(topic, role)).text;
                    self.sentence(&format!("{lead}{frame}."))
                }
            };
            if !text.0.contains(&next.0) {
                text = (format!("{} {}", text.0, next.0), text.1 + next.1);
            }
        }
        if closing {
            let last = self.draws.pick(&CLOSINGS[polarity as usize]);
            text.0.push(' ');
            text.0.push_str(&self.sentence(last).0);
        }
        text.0
    }

    /// A sentence on its own that praises or blames something of `topic`.
    pub(super) fn opinion(&mut self, topic: Topic, polarity: Polarity) -> String {
        self.set(topic, polarity);
        self.opinion_sentence().0
    }

    /// A sentence on its own that shows its topic, mostly without an attitude.
    pub(super) fn topical(&mut self, topic: Topic) -> String {
        let polarity = *self.draws.choose(&Polarity::ALL);
        self.set(topic, polarity);
        let frame = match self.draws.below(100) {
            0..=44 => self.draws.pick(&GENERIC).to_owned(),
            45..=59 => self.word(Class::Topic(topic, Role::Act)).text,
            60..=74 => self.word(Class::Topic(topic, Role::Event)).text,
            _ => return self.sentence("{C}.").0,
        };
        let timed = self.is_past && self.draws.percent(35);
        let lead = if timed { format!("{} ", self.draws.pick(&PAST_TIMES)) } else { String::new() };
        self.sentence(&format!("{lead}{frame}.")).0
    }

    fn opinion_sentence(&mut self) -> (String, usize) {
        let i = self.draws.weighted(OPINIONS.iter().map(|(weight, _)| *weight));
        self.sentence(OPINIONS[i].1)
    }

    fn sentence(&mut self, pattern: &str) -> (String, usize) {
        self.said.clear();
        self.named_here = false;
        self.last_clause = None;
        let text = self.fill(pattern);
        (finish(&text), 1)
    }

    fn act(&mut self) -> String {
        self.word(Class::Topic(self.topic, Role::Act)).text
    }

    /// Now and then a word of sequence, each one once.
    fn lead(&mut self) -> &'static str {
        if !self.draws.percent(25) {
            return "";
        }
        self.leads += 1;
        SEQUENCE[self.leads % SEQUENCE.len()]
    }

    /// A word of `class` that the sentence has not used yet.
    fn word(&mut self, class: Class) -> Word {
        let mut word = self.lexicon.pick(class, self.vocabulary, &mut self.draws);
        for _ in 0..4 {
            if !self.said.contains(&word.text) {
                break;
            }
            word = self.lexicon.pick(class, self.vocabulary, &mut self.draws);
        }
        let word = word.clone();
        self.note(class, &word);
        word
    }

    fn note(&mut self, class: Class, word: &Word) {
        self.said.push(word.text.clone());
        self.used.push((class, word.clone()));
    }

    fn thing(&mut self) -> Word {
        if !self.things.is_empty() && self.draws.percent(75) {
            let word = self.draws.choose(&self.things).clone();
            if !self.said.contains(&word.text) {
                self.note(Class::Topic(self.topic, Role::Thing), &word);
                return word;
            }
        }
        self.word(Class::Topic(self.topic, Role::Thing))
    }

    fn noun(&mut self, slot: char) -> Word {
        match slot.to_ascii_lowercase() {
            't' => {
                let word = self.thing();
                self.last_thing = agreement(&word);
                word
            }
            'p' => self.word(Class::Topic(self.topic, Role::Person)),
            _ => self.word(Class::Topic(self.topic, Role::Prop)),
        }
    }

    fn definite(&mut self, slot: char) -> String {
        let word = self.noun(slot);
        let plural = agreement(&word) == Agreement::Plural;
        // What goes together is named together: the plainest sign of a class.
        if self.draws.percent(if slot.is_ascii_uppercase() { 10 } else { 25 }) {
            let other = self.noun(slot);
            if other.text != word.text {
                match slot {
                    't' | 'T' => self.last_thing = Agreement::Plural,
                    _ => {}
                }
                if slot.is_ascii_uppercase() {
                    self.subject = Agreement::Plural;
                }
                return format!("the {} and the {}", word.text, other.text);
            }
        }
        if !slot.is_ascii_uppercase() {
            return self.the(slot, &word.text);
        }
        self.subject = agreement(&word);
        let article = match (self.draws.below(20), plural) {
            (0, false) => "this",
            (0, true) => "these",
            (1, false) => "that",
            (1, true) => "those",
            _ => "the",
        };
        let mut noun = if article == "the" { self.the(slot, &word.text) } else { format!("{article} {}", word.text) };
        if slot != 'X' && article == "the" && self.draws.percent(10) {
            noun = format!("{noun} {}", self.place(true));
        }
        noun
    }

    fn indefinite(&mut self, slot: char, adjective: Option<String>) -> String {
        let word = self.noun(slot);
        match (word.note, adjective) {
            ("p" | "m", Some(adjective)) => format!("{adjective} {}", word.text),
            ("p" | "m", None) => format!("some {}", word.text),
            (_, Some(adjective)) => format!("a {adjective} {}", word.text),
            (_, None) => format!("a {}", word.text),
        }
    }

    /// The scene's place: at length when it is new, short afterwards; with its preposition on request.
    fn place(&mut self, with_preposition: bool) -> String {
        let known = self.place.is_some();
        if !known {
            let word = self.word(Class::Topic(self.topic, Role::Place));
            self.place = Some(word);
        }
        let Some(word) = self.place.clone() else { return String::new() };
        let mut noun = word.text;
        if !known {
            let outdoors = self.topic == Topic::Weather;
            match self.draws.below(4) {
                0 => {}
                1 | 2 => {
                    let before = if outdoors { self.draws.pick(&LAND_BEFORE) } else { self.draws.pick(&PLACE_BEFORE) };
                    noun = format!("{before} {noun}");
                }
                _ => {
                    let after = if outdoors { self.draws.pick(&LAND_AFTER) } else { self.draws.pick(&PLACE_AFTER) };
                    noun = format!("{noun} {after}");
                }
            }
        }
        match (with_preposition, word.note) {
            (false, _) => format!("the {noun}"),
            (true, "") => format!("at the {noun}"),
            (true, preposition) => format!("{preposition} the {noun}"),
        }
    }

    fn narrator(&mut self, slot: &str) -> String {
        let fresh = !self.introduced || (slot == "S" && !self.named_here && self.draws.percent(20));
        let (subject, object, possessive, name) = match self.narrator {
            Narrator::I => ("I", "me", "my", None),
            Narrator::We => ("we", "us", "our", None),
            Narrator::She(name) => ("she", "her", "her", Some(name)),
            Narrator::He(name) => ("he", "him", "his", Some(name)),
        };
        if slot == "S" {
            self.subject = match self.narrator {
                Narrator::I => Agreement::First,
                Narrator::We => Agreement::Plural,
                Narrator::She(_) | Narrator::He(_) => Agreement::Third,
            };
        }
        self.introduced = true;
        match (name, slot) {
            (Some(name), "S" | "o") if fresh => {
                self.named_here = true;
                name.to_owned()
            }
            (Some(name), "my") if fresh => {
                self.named_here = true;
                format!("{name}'s")
            }
            (_, "S") => subject.to_owned(),
            (_, "o") => object.to_owned(),
            _ => possessive.to_owned(),
        }
    }

    fn degree(&mut self, polarity: Polarity) -> &'static str {
        if self.vocabulary == Vocabulary::All && self.draws.percent(60) {
            return self.draws.pick(&TELLING_DEGREES[polarity as usize]);
        }
        self.draws.pick(&DEGREES)
    }

    /// In raw text one of `words`, half of the time.
    fn telling(&mut self, words: [&'static str; 2]) -> &'static str {
        if self.vocabulary == Vocabulary::All && self.draws.percent(50) { self.draws.pick(&words) } else { "" }
    }

    /// "the" and, in raw text, now and then what kind of thing it is.
    fn the(&mut self, slot: char, noun: &str) -> String {
        let kind = slot.eq_ignore_ascii_case(&'t') && self.vocabulary == Vocabulary::All && self.draws.percent(35);
        let kind = if kind { self.draws.pick(&KINDS[self.topic as usize]) } else { "" };
        format!("the {kind}{noun}")
    }

    /// A word of the sentence's attitude: the class's own words in `own` of a hundred cases, else those for anything.
    fn tone(&mut self, polarity: Polarity, tone: Tone, own: usize) -> String {
        let tone = if self.draws.percent(own) { tone } else { Tone::Any };
        self.word(Class::Tone(polarity, tone)).text
    }

    /// A clause; on request not one about who tells the story.
    fn clause(&mut self, polarity: Polarity, outward: bool) -> String {
        let before = std::mem::replace(&mut self.polarity, polarity);
        let outdoors = self.topic == Topic::Weather;
        let last = self.last_clause;
        let weight = |(i, (weight, pattern)): (usize, &(usize, &str))| {
            let inward = outward && pattern.starts_with("{S}");
            let unfit = inward || (outdoors && pattern.contains("{L}")) || (i > 0 && last.is_some_and(|l| alike(CLAUSES[l].1, pattern)));
            if unfit { 0 } else { *weight }
        };
        let i = self.draws.weighted(CLAUSES.iter().enumerate().map(weight));
        self.last_clause = Some(i);
        let text = self.fill(CLAUSES[i].1);
        self.polarity = before;
        text
    }

    fn slot(&mut self, slot: &str) -> String {
        let (slot, polarity) = match slot.strip_prefix('!') {
            Some(slot) => (slot, self.polarity.opposite()),
            None => (slot, self.polarity),
        };
        match slot {
            "S" | "o" | "my" => self.narrator(slot),
            "T" | "t" | "P" | "p" | "X" | "x" => self.definite(slot.chars().next().unwrap_or('t')),
            "x2" => self.definite('x'),
            "at" | "ap" | "ax" => self.indefinite(slot.chars().nth(1).unwrap_or('t'), None),
            "at+" => {
                let telling = self.vocabulary == Vocabulary::All && self.draws.percent(50);
                let degree = if telling { self.draws.pick(&TELLING_DEGREES[polarity as usize]) } else { "" };
                let adjective = self.tone(polarity, Tone::Thing(self.topic), 50);
                self.indefinite('t', Some(format!("{degree}{adjective}")))
            }
            "L" => {
                self.subject = Agreement::Third;
                self.place(false)
            }
            "l" => self.place(false),
            "atl" => self.place(true),
            "It" => {
                self.subject = self.last_thing;
                if self.subject == Agreement::Plural { "they".to_owned() } else { "it".to_owned() }
            }
            "A" => self.tone(polarity, Tone::Thing(self.topic), 50),
            "PA" => self.tone(polarity, Tone::Person, 85),
            "LA" => self.tone(polarity, Tone::Place, 65),
            "feel" => self.tone(polarity, Tone::Feeling, 100),
            "att" => self.tone(polarity, Tone::Attitude, 100),
            "out" => self.tone(polarity, Tone::Outcome, 100),
            "adv" => self.tone(polarity, Tone::Manner, 100),
            "deg" => self.degree(polarity).to_owned(),
            "how" => self.telling(TELLING_HOW[polarity as usize]).to_owned(),
            "only" => self.telling(TELLING_ONLY[polarity as usize]).to_owned(),
            "friend" => self.draws.pick(&FRIENDS).to_owned(),
            "when" => if self.is_past { self.draws.pick(&PAST_TIMES) } else { self.draws.pick(&PRESENT_TIMES) }.to_owned(),
            "act" => {
                let act = self.act();
                self.fill(&act)
            }
            "C" => self.clause(polarity, false),
            "CT" => self.clause(polarity, true),
            _ => unreachable!("slot {slot}"),
        }
    }

    fn verb(&mut self, verb: &str) -> String {
        let (verb, agreement) = match verb.as_bytes() {
            [.., b'*'] => (&verb[..verb.len() - 1], Agreement::Third),
            [.., b'+'] => (&verb[..verb.len() - 1], Agreement::Plural),
            _ => (verb, self.subject),
        };
        if verb == "@att" {
            let base = self.tone(self.polarity, Tone::Attitude, 100);
            return inflect(&base, agreement, self.is_past);
        }
        inflect(verb, agreement, self.is_past)
    }

    fn fill(&mut self, pattern: &str) -> String {
        let mut text = String::new();
        let mut rest = pattern;
        while let Some(at) = rest.find(['{', '<']) {
            text.push_str(&rest[..at]);
            let (open, close) = if rest[at..].starts_with('{') { ('{', '}') } else { ('<', '>') };
            let Some(end) = rest[at..].find(close) else { break };
            let inside = &rest[at + 1..at + end];
            text.push_str(&if open == '{' { self.slot(inside) } else { self.verb(inside) });
            rest = &rest[at + end + 1..];
        }
        text.push_str(rest);
        text
    }
}

fn agreement(word: &Word) -> Agreement {
    if word.note == "p" { Agreement::Plural } else { Agreement::Third }
}

/// Clauses that would repeat each other in one sentence.
fn alike(a: &str, b: &str) -> bool {
    a == b || ["{L}", "feel}"].iter().any(|slot| a.contains(slot) && b.contains(slot))
}
