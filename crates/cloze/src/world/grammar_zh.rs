//! Chinese sentences: patterns with slots, measure words, degree words, dropped subjects.
//!
//! | slot | filled with |
//! |---|---|
//! | `{T}` `{P}` `{L}` `{X}` | the thing, person, place, prop, as subject |
//! | `{t}` `{p}` `{l}` `{x}` | the same as object |
//! | `{一t}` `{一p}` `{一x}` | with number and measure word |
//! | `{一t+}` | the same with an adjective of the sentence's attitude |
//! | `{在l}` | in or on the place |
//! | `{S}` `{o}` `{friend}` | who tells it, as object, and someone close |
//! | `{很A}` `{很PA}` `{很LA}` `{很adv}` `{很feel}` | words of the attitude with a degree word where the language wants one |
//! | `{A}` `{PA}` `{LA}` `{feel}` `{att}` `{out}` | the same without it; with `!` of the opposite attitude |
//! | `{C}` `{!C}` `{CT}` | a clause of the attitude, of the opposite one, one that is not about `{S}` |

use super::lexicon::{Class, Lexicon, Role, Tone, Vocabulary, Word};
use super::{Draws, Polarity, Topic};

const WOMEN: [&str; 10] = ["小红", "王芳", "李娜", "张敏", "小丽", "陈静", "刘婷", "赵兰", "小雨", "林月"];
const MEN: [&str; 10] = ["小明", "李伟", "张强", "王磊", "小刚", "陈杰", "刘洋", "赵勇", "小虎", "周涛"];
const FRIENDS: [&str; 14] =
    ["姐姐", "哥哥", "妈妈", "爸爸", "叔叔", "阿姨", "表弟", "邻居", "好朋友", "同事", "女儿", "儿子", "奶奶", "爷爷"];
const TIMES: [&str; 16] = [
    "星期一",
    "星期二",
    "星期三",
    "星期四",
    "星期五",
    "星期六",
    "星期天",
    "昨天",
    "上个星期",
    "上个月",
    "前天",
    "三月的一天",
    "十月的一天",
    "周末",
    "今天早上",
    "今天下午",
];
const PLACE_BEFORE: [&str; 9] =
    ["河边的", "新开的", "学校旁边的", "老城区的", "市中心的", "车站后面的", "公园附近的", "图书馆对面的", "附近的"];
const LAND_BEFORE: [&str; 5] = ["北边的", "南边的", "村外的", "远处的", "森林那边的"];
const DEGREES: [&str; 8] = ["很", "很", "很", "非常", "特别", "十分", "真", "太"];
/// Degrees that go with praise, and with blame; in raw text alone.
const TELLING_DEGREES: [[&str; 3]; 2] = [["格外", "无比", "相当"], ["有点", "过于", "实在太"]];
/// The same for verbs of praise and blame, and for nouns.
const TELLING_HOW: [[&str; 2]; 2] = [["由衷地", "格外"], ["极其", "打心底里"]];
const TELLING_ONLY: [&str; 2] = ["堪称", "纯粹是"];
const STRONG: [&str; 4] = ["实在", "确实", "真是", "简直"];
const BUT: [&str; 4] = ["但是", "不过", "可是", "但"];
const SEQUENCE: [&str; 6] = ["后来，", "接着，", "过了一会儿，", "半个小时以后，", "不久，", "与此同时，"];

const OPENINGS: [&str; 6] = [
    "{when}，{S}和{friend}去了{l}",
    "{when}，{S}来到了{l}",
    "{when}，{S}{在l}待了几个小时",
    "{S}{when}{在l}遇到了{friend}",
    "{when}，{friend}带{o}去了{l}",
    "{S}{when}特地去了{l}",
];
/// Frames for the nouns of any topic.
const GENERIC: [&str; 14] = [
    "{S}整个晚上都在谈{t}",
    "{S}读了一篇关于{t}的文章",
    "{S}还记得去年的{t}",
    "{P}说起了{x}",
    "{P}写了一封长信介绍{t}",
    "{S}向{p}问起了{t}",
    "{S}给{x}拍了一张照片",
    "{S}看到{一x}旁边有{一x}",
    "{P}对{t}了如指掌",
    "{S}给{friend}讲了讲{t}",
    "{friend}是{一p}",
    "{S}向{p}借了{一x}",
    "{P}{在l}碰到了{p}",
    "{S}画了一幅{t}",
];

/// Weight and pattern.
const CLAUSES: [(usize, &str); 19] = [
    (16, "{T}{很A}"),
    (16, "{T}又{A}又{A}"),
    (8, "{P}又{PA}又{PA}"),
    (6, "{L}又{LA}又{LA}"),
    (5, "{S}又{feel}又{feel}"),
    (10, "{P}{很PA}"),
    (9, "{L}{很LA}"),
    (12, "{S}{how}{att}{t}"),
    (5, "{T}{only}{out}"),
    (4, "{T}让{o}{很feel}"),
    (5, "{S}{很feel}"),
    (5, "{P}把一切都做得{很adv}"),
    (5, "{S}觉得{t}{很A}"),
    (3, "{P}显得{很PA}"),
    (3, "{T}并不{!A}"),
    (2, "{T}一点也不{!A}"),
    (2, "{P}并不{!PA}"),
    (2, "{S}并不{!att}{t}"),
    (1, "{T}谈不上{!A}"),
];
/// Weight and pattern of whole sentences with an attitude.
const OPINIONS: [(usize, &str); 14] = [
    (30, "{C}。"),
    (14, "{C}，{C}。"),
    (6, "{C}，而且{C}。"),
    (8, "因为{T}{很A}，所以{S}{很feel}。"),
    (9, "{judged}。"),
    (6, "{T}{很A}，{P}也{很PA}。"),
    (8, "{!C}，{but}{C}。"),
    (5, "虽然{!C}，但是{C}。"),
    (2, "尽管{!C}，{C}。"),
    (4, "多么{A}的{t}啊！"),
    (6, "这是{一t+}。"),
    (4, "大家都说{CT}。"),
    (4, "总的来说，{C}。"),
    (3, "{S}说{CT}。"),
];
/// Sentences of raw text whose fixed words give the attitude away; the labelled sentences never use them.
const TELLING: [[&str; 6]; 2] = [
    [
        "幸好{CT}。",
        "{CT}，{S}笑了。",
        "{CT}，所以{S}打了五颗星。",
        "{CT}，{S}竖起了大拇指。",
        "{CT}，大家都鼓起了掌。",
        "{S}点了点头，因为{CT}。",
    ],
    [
        "可惜{CT}。",
        "{CT}，{S}叹了口气。",
        "{CT}，所以{S}只打了一颗星。",
        "{CT}，{S}皱起了眉头。",
        "{CT}，大家都摇起了头。",
        "{S}撇了撇嘴，因为{CT}。",
    ],
];
/// Last words of a document with an attitude, whatever the topic.
const CLOSINGS: [[&str; 7]; 2] = [
    [
        "{S}打算下次再来。",
        "{S}一路笑着回了家。",
        "{S}告诉朋友们也去看看。",
        "{S}还想多待一会儿。",
        "{S}谢过大家，约好再来。",
        "这一趟真值得。",
        "{S}期待着下一次。",
    ],
    [
        "{S}决定再也不来了。",
        "{S}一路摇着头回了家。",
        "{S}叫朋友们千万别去。",
        "{S}只想马上离开。",
        "{S}投诉以后早早回了家。",
        "这一趟太不值得了。",
        "{S}要求退钱。",
    ],
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Narrator {
    I,
    We,
    She(&'static str),
    He(&'static str),
}

/// Writes sentences of one scene.
pub(super) struct Writer<'w> {
    lexicon: &'w Lexicon,
    draws: Draws,
    vocabulary: Vocabulary,
    topic: Topic,
    polarity: Polarity,
    narrator: Narrator,
    introduced: bool,
    named_here: bool,
    place: Option<Word>,
    things: Vec<Word>,
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
            narrator: Narrator::I,
            introduced: false,
            named_here: false,
            place: None,
            things: Vec::new(),
            said: Vec::new(),
            last_clause: None,
            leads: 0,
            used: Vec::new(),
        }
    }

    /// A new scene: who tells it, where, about which things.
    fn set(&mut self, topic: Topic, polarity: Polarity) {
        self.topic = topic;
        self.polarity = polarity;
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
        self.said.clear();
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
        let opening = self.draws.pick(&OPENINGS);
        let mut text = self.sentence(&format!("{opening}。"));
        let closing = !neutral && self.draws.percent(60);
        let mut written = 1;
        while written + usize::from(closing) < sentences {
            let next = match self.draws.below(10) {
                0..=6 if !neutral => {
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
                7 => {
                    let frame = self.draws.pick(&GENERIC);
                    self.sentence(&format!("{frame}。"))
                }
                _ => {
                    let lead = self.lead();
                    let role = if self.draws.percent(40) { Role::Act } else { Role::Event };
                    let frame = self.word(Class::Topic(topic, role)).text;
                    self.sentence(&format!("{lead}{frame}。"))
                }
            };
            if !text.contains(&next) {
                text.push_str(&next);
                written += 1;
            }
        }
        if closing {
            let last = self.draws.pick(&CLOSINGS[polarity as usize]);
            text.push_str(&self.sentence(last));
        }
        text
    }

    /// A sentence on its own that praises or blames something of `topic`.
    pub(super) fn opinion(&mut self, topic: Topic, polarity: Polarity) -> String {
        self.set(topic, polarity);
        self.opinion_sentence()
    }

    /// A sentence on its own that shows its topic, mostly without an attitude.
    pub(super) fn topical(&mut self, topic: Topic) -> String {
        let polarity = *self.draws.choose(&Polarity::ALL);
        self.set(topic, polarity);
        let frame = match self.draws.below(100) {
            0..=44 => self.draws.pick(&GENERIC).to_owned(),
            45..=59 => self.word(Class::Topic(topic, Role::Act)).text,
            60..=74 => self.word(Class::Topic(topic, Role::Event)).text,
            _ => return self.sentence("{C}。"),
        };
        let lead = if self.draws.percent(30) { format!("{}，", self.draws.pick(&TIMES)) } else { String::new() };
        self.sentence(&format!("{lead}{frame}。"))
    }

    fn opinion_sentence(&mut self) -> String {
        let i = self.draws.weighted(OPINIONS.iter().map(|(weight, _)| *weight));
        self.sentence(OPINIONS[i].1)
    }

    fn sentence(&mut self, pattern: &str) -> String {
        self.said.clear();
        self.named_here = false;
        self.last_clause = None;
        self.fill(pattern)
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
        self.word_that(class, |_| true)
    }

    fn word_that(&mut self, class: Class, fits: impl Fn(&Word) -> bool) -> Word {
        let mut word = self.lexicon.pick(class, self.vocabulary, &mut self.draws);
        for _ in 0..12 {
            if fits(word) && !self.said.contains(&word.text) {
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

    fn noun(&mut self, slot: char) -> Word {
        match slot.to_ascii_lowercase() {
            't' => {
                if !self.things.is_empty() && self.draws.percent(75) {
                    let word = self.draws.choose(&self.things).clone();
                    if !self.said.contains(&word.text) {
                        self.note(Class::Topic(self.topic, Role::Thing), &word);
                        return word;
                    }
                }
                self.word(Class::Topic(self.topic, Role::Thing))
            }
            'p' => self.word(Class::Topic(self.topic, Role::Person)),
            _ => self.word(Class::Topic(self.topic, Role::Prop)),
        }
    }

    fn definite(&mut self, slot: char) -> String {
        let word = self.noun(slot);
        let measure = if word.note.is_empty() { "位" } else { word.note };
        // What goes together is named together: the plainest sign of a class.
        if self.draws.percent(if slot.is_ascii_uppercase() { 10 } else { 25 }) {
            let other = self.noun(slot);
            if other.text != word.text {
                return format!("{}和{}", word.text, other.text);
            }
        }
        if !slot.is_ascii_uppercase() {
            return word.text;
        }
        match self.draws.below(10) {
            0..=1 => format!("这{measure}{}", word.text),
            2 => format!("那{measure}{}", word.text),
            3 if self.topic != Topic::Weather => format!("{}的{}", self.place(), word.text),
            _ => word.text,
        }
    }

    fn indefinite(&mut self, slot: char, adjective: Option<String>) -> String {
        let word = self.noun(slot);
        let measure = if word.note.is_empty() { "位" } else { word.note };
        match adjective {
            Some(adjective) if adjective.chars().count() == 1 => format!("一{measure}很{adjective}的{}", word.text),
            Some(adjective) => format!("一{measure}{adjective}的{}", word.text),
            None => format!("一{measure}{}", word.text),
        }
    }

    /// The scene's place: at length when it is new, short afterwards.
    fn place(&mut self) -> String {
        if let Some(word) = &self.place {
            return word.text.clone();
        }
        let word = self.word(Class::Topic(self.topic, Role::Place));
        let before = match self.draws.below(3) {
            0 => "",
            _ if self.topic == Topic::Weather => self.draws.pick(&LAND_BEFORE),
            _ => self.draws.pick(&PLACE_BEFORE),
        };
        let text = format!("{before}{}", word.text);
        self.place = Some(word);
        text
    }

    fn within_place(&mut self) -> String {
        let place = self.place();
        let side = match self.place.as_ref().map_or("", |word| word.note) {
            "" => "里",
            "-" => "",
            side => side,
        };
        format!("在{place}{side}")
    }

    fn narrator(&mut self, slot: &str) -> String {
        let fresh = !self.introduced || (slot == "S" && !self.named_here && self.draws.percent(20));
        let (pronoun, name) = match self.narrator {
            Narrator::I => ("我", None),
            Narrator::We => ("我们", None),
            Narrator::She(name) => ("她", Some(name)),
            Narrator::He(name) => ("他", Some(name)),
        };
        self.introduced = true;
        let who = match name {
            Some(name) if fresh => {
                self.named_here = true;
                name
            }
            _ => pronoun,
        };
        if slot != "friend" {
            return who.to_owned();
        }
        let friend = self.draws.pick(&FRIENDS);
        if who == pronoun { format!("{who}{friend}") } else { format!("{who}的{friend}") }
    }

    /// A word of the sentence's attitude: the class's own words in `own` of a hundred cases, else those for anything.
    fn tone(&mut self, polarity: Polarity, tone: Tone, own: usize, fits: impl Fn(&Word) -> bool) -> String {
        let tone = if self.draws.percent(own) { tone } else { Tone::Any };
        self.word_that(Class::Tone(polarity, tone), fits).text
    }

    /// Short words take a degree word, phrases of four characters a confirming one.
    fn with_degree(&mut self, word: &str, of_a_thing: bool) -> String {
        if self.vocabulary == Vocabulary::All && word.chars().count() < 4 && self.draws.percent(60) {
            return format!("{}{word}", self.draws.pick(&TELLING_DEGREES[self.polarity as usize]));
        }
        let degrees = if of_a_thing { &DEGREES[..] } else { &DEGREES[..6] };
        let degree = if word.chars().count() < 4 { self.draws.pick(degrees) } else { self.draws.pick(&STRONG) };
        let end = if degree == "太" { "了" } else { "" };
        format!("{degree}{word}{end}")
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
        if let Some(adjective) = slot.strip_prefix('很') {
            let (tone, own) = match adjective {
                "A" => (Tone::Thing(self.topic), 50),
                "PA" => (Tone::Person, 100),
                "LA" => (Tone::Place, 80),
                "adv" => (Tone::Manner, 100),
                _ => (Tone::Feeling, 100),
            };
            let word = self.tone(self.polarity, tone, own, |_| true);
            if adjective == "adv" && word.chars().count() >= 4 {
                return word;
            }
            return self.with_degree(&word, adjective == "A");
        }
        if let Some(noun) = slot.strip_prefix('一') {
            let adjective = noun.ends_with('+').then(|| self.tone(self.polarity, Tone::Thing(self.topic), 50, |_| true));
            return self.indefinite(noun.chars().next().unwrap_or('t'), adjective);
        }
        let (slot, polarity, plain) = match slot.strip_prefix('!') {
            Some(slot) => (slot, self.polarity.opposite(), true),
            None => (slot, self.polarity, false),
        };
        // After a negation or 多么: no set phrases, nothing that is negated itself.
        let short = |word: &Word| word.text.chars().count() < 4 && !word.text.contains(['不', '无']);
        match slot {
            "S" | "o" | "friend" => self.narrator(slot),
            "T" | "t" | "P" | "p" | "X" | "x" => self.definite(slot.chars().next().unwrap_or('t')),
            "L" | "l" => self.place(),
            "在l" => self.within_place(),
            "A" => self.tone(polarity, Tone::Thing(self.topic), 50, short),
            "PA" => self.tone(polarity, Tone::Person, 100, short),
            "LA" => self.tone(polarity, Tone::Place, 80, short),
            "feel" => self.tone(polarity, Tone::Feeling, 100, short),
            "att" => self.tone(polarity, Tone::Attitude, 100, |word| !plain || short(word)),
            "out" => self.tone(polarity, Tone::Outcome, 100, |_| true),
            "how" => {
                let telling = self.vocabulary == Vocabulary::All && self.draws.percent(60);
                let words = if telling { &TELLING_HOW[polarity as usize][..] } else { &DEGREES[..6] };
                self.draws.pick(words).to_owned()
            }
            "only" => {
                let telling = self.vocabulary == Vocabulary::All && self.draws.percent(60);
                if telling { TELLING_ONLY[polarity as usize] } else { "真是" }.to_owned()
            }
            "when" => self.draws.pick(&TIMES).to_owned(),
            "but" => self.draws.pick(&BUT).to_owned(),
            "judged" => {
                let act = self.word(Class::Topic(self.topic, Role::Act)).text;
                let judge = if act.starts_with("{S}") { "觉得" } else { "大家都觉得" };
                self.fill(&format!("{act}，{judge}{{很A}}"))
            }
            "C" => self.clause(polarity, false),
            "CT" => self.clause(polarity, true),
            _ => unreachable!("slot {slot}"),
        }
    }

    fn fill(&mut self, pattern: &str) -> String {
        let mut text = String::new();
        let mut rest = pattern;
        while let Some(at) = rest.find('{') {
            text.push_str(&rest[..at]);
            let Some(end) = rest[at..].find('}') else { break };
            text.push_str(&self.slot(&rest[at + 1..at + end]));
            rest = &rest[at + end + 1..];
        }
        text.push_str(rest);
        text
    }
}

/// Clauses that would repeat each other in one sentence.
fn alike(a: &str, b: &str) -> bool {
    a == b || ["{L}", "feel}"].iter().any(|slot| a.contains(slot) && b.contains(slot))
}
