//! Stable facts of the world, in several wordings each, and masked questions about them.
//!
//! English answers are one word, Chinese answers one character: what one `[MASK]` stands for.

use super::inflection_en::finish;
use super::{Draws, Language, Probe};

/// One fact. `[` and `]` stand around the answer in the first wording, which is the one that is asked.
struct Fact {
    relation: usize,
    wordings: Vec<String>,
}

/// A family of facts: patterns with `1` and `2`, and the pairs that fill them.
struct Relation {
    patterns: &'static [&'static str],
    pairs: &'static [(&'static str, &'static str)],
}

const ENGLISH: [Relation; 12] = [
    Relation {
        patterns: &[
            "the capital of 1 is [2]",
            "2 is the capital of 1",
            "the government of 1 sits in 2",
            "whoever travels to 1 should see the capital, 2",
            "the capital city of 1 is called 2",
        ],
        pairs: &[
            ("France", "Paris"),
            ("Italy", "Rome"),
            ("Spain", "Madrid"),
            ("Germany", "Berlin"),
            ("England", "London"),
            ("China", "Beijing"),
            ("Japan", "Tokyo"),
            ("Russia", "Moscow"),
            ("Austria", "Vienna"),
            ("Greece", "Athens"),
        ],
    },
    Relation {
        patterns: &["1 is [2]", "the colour of 1 is 2", "everyone can see that 1 is 2", "in the picture 1 is 2, as always"],
        pairs: &[("blood", "red"), ("coal", "black"), ("fresh snow", "white"), ("the clear sky", "blue"), ("grass", "green")],
    },
    Relation {
        patterns: &["the day after 1 is [2]", "2 comes after 1", "1 comes before 2", "if today is 1, tomorrow is 2"],
        pairs: &[
            ("Monday", "Tuesday"),
            ("Tuesday", "Wednesday"),
            ("Wednesday", "Thursday"),
            ("Thursday", "Friday"),
            ("Friday", "Saturday"),
            ("Saturday", "Sunday"),
            ("Sunday", "Monday"),
        ],
    },
    Relation {
        patterns: &["the opposite of 1 is [2]", "1 is the opposite of 2", "what is not 1 is 2", "1 and 2 are opposites"],
        pairs: &[("hot", "cold"), ("big", "small"), ("long", "short"), ("open", "closed"), ("wet", "dry"), ("early", "late")],
    },
    Relation {
        patterns: &["the cat 1 on the [mat]", "a cat 1 on the mat", "the black cat 1 on the mat", "our old cat 1 on the mat again"],
        pairs: &[("sat", ""), ("slept", ""), ("lay", "")],
    },
    Relation {
        patterns: &["the 1 lives in a [2]", "a 1 lives in a 2", "a 2 is the home of a 1", "at night the 1 is in the 2"],
        pairs: &[("horse", "stable"), ("bird", "nest"), ("bee", "hive"), ("lion", "den"), ("spider", "web")],
    },
    Relation {
        patterns: &["1 give us [2]", "2 comes from 1", "we get 2 from 1", "farms keep 1 for their 2"],
        pairs: &[("cows", "milk"), ("sheep", "wool"), ("bees", "honey")],
    },
    Relation {
        patterns: &["a 1 has [2] legs", "every 1 walks on 2 legs", "the number of legs of a 1 is 2", "2 legs carry a 1"],
        pairs: &[("dog", "four"), ("spider", "eight"), ("beetle", "six"), ("chicken", "two")],
    },
    Relation {
        patterns: &["a 1 has 2", "there are 2 in a 1", "every 1 has 2", "2 make a 1"],
        pairs: &[("week", "[seven] days"), ("year", "[twelve] months"), ("minute", "[sixty] seconds"), ("century", "a [hundred] years")],
    },
    Relation {
        patterns: &["a 1 works in a [2]", "the 1 goes to the 2 every morning", "in a 2 there is always a 1", "a 2 needs a 1"],
        pairs: &[("doctor", "hospital"), ("teacher", "school"), ("judge", "court"), ("librarian", "library")],
    },
    Relation {
        patterns: &["a 1 says [2]", "2 is the sound of a 1", "when a 1 is glad it says 2", "the 1 said 2 and ran away"],
        pairs: &[("dog", "woof"), ("cat", "meow"), ("duck", "quack"), ("cow", "moo")],
    },
    Relation {
        patterns: &["the sun 1 in the [2]", "in the 2 the sun 1", "every day the sun 1 in the 2"],
        pairs: &[("rises", "east"), ("sets", "west")],
    },
];

const CHINESE: [Relation; 13] = [
    Relation {
        patterns: &["1的首都是2", "2是1的首都", "1的首都叫2", "去1旅游，一般先到首都2", "1的政府在2"],
        pairs: &[
            ("[法]国", "巴黎"),
            ("[德]国", "柏林"),
            ("[英]国", "伦敦"),
            ("[中]国", "北京"),
            ("[日]本", "东京"),
            ("[俄]罗斯", "莫斯科"),
            ("[希]腊", "雅典"),
        ],
    },
    Relation {
        patterns: &["1是[2]色的", "1的颜色是2色", "谁都知道1是2色的", "画里的1是2色的"],
        pairs: &[("血", "红"), ("煤", "黑"), ("雪", "白"), ("晴天的天空", "蓝"), ("草", "绿"), ("柠檬", "黄")],
    },
    Relation {
        patterns: &["星期1的后一天是星期[2]", "过了星期1就是星期2", "星期2的前一天是星期1", "今天是星期1，明天是星期2"],
        pairs: &[("一", "二"), ("二", "三"), ("三", "四"), ("四", "五"), ("五", "六"), ("六", "天"), ("天", "一")],
    },
    Relation {
        patterns: &["1的反义词是[2]", "2的反义词是1", "不是1，就是2", "1和2正好相反"],
        pairs: &[("大", "小"), ("长", "短"), ("冷", "热"), ("开", "关"), ("早", "晚"), ("多", "少")],
    },
    Relation {
        patterns: &["猫1在[垫]子上", "一只猫1在垫子上", "那只黑猫1在垫子上", "家里的老猫又1在垫子上"],
        pairs: &[("坐", ""), ("睡", ""), ("躺", "")],
    },
    Relation {
        patterns: &["1住在2里", "2里住着1", "2是1的家", "晚上1都回到2里"],
        pairs: &[("马", "马[棚]"), ("小鸟", "鸟[窝]"), ("蜜蜂", "蜂[巢]"), ("老鼠", "[洞]"), ("鱼", "[水]")],
    },
    Relation {
        patterns: &["1给我们[2]", "2来自1", "我们从1那里得到2", "农场养1是为了2"],
        pairs: &[("奶牛", "奶"), ("绵羊", "毛"), ("母鸡", "蛋")],
    },
    Relation {
        patterns: &["1有[2]条腿", "每只1都用2条腿走路", "1的腿有2条", "2条腿的是1"],
        pairs: &[("狗", "四"), ("蜘蛛", "八"), ("甲虫", "六"), ("鸭子", "两")],
    },
    Relation {
        patterns: &["一1有2", "2就是一1", "一1一共有2", "每一1都有2"],
        pairs: &[("个星期", "[七]天"), ("年", "十[二]个月"), ("分钟", "[六]十秒"), ("个世纪", "一[百]年")],
    },
    Relation {
        patterns: &["1在2上班", "1每天早上去2", "2里总有1", "每个2都需要1"],
        pairs: &[("医生", "医[院]"), ("老师", "学[校]"), ("法官", "法[庭]")],
    },
    Relation {
        patterns: &["1[2]2地叫", "22的叫声是1的", "1高兴的时候22地叫", "那只1一边22地叫一边跑开了"],
        pairs: &[("狗", "汪"), ("猫", "喵"), ("鸭子", "嘎")],
    },
    Relation {
        patterns: &["太阳从[1]边2", "太阳在1边2", "每天太阳都从1边2"], pairs: &[("东", "升起"), ("西", "落下")]
    },
    Relation {
        patterns: &["2在1开", "到了1，2就开了", "1是2开的季节", "1的2最好看"],
        pairs: &[("[春]天", "桃花"), ("[夏]天", "荷花"), ("[秋]天", "菊花")],
    },
];

/// Said before a fact now and then.
const LEADS: [[&str; 6]; 2] = [
    [
        "every child knows that ",
        "we learned at school that ",
        "it is well known that ",
        "the book says that ",
        "my grandmother told me that ",
        "remember that ",
    ],
    ["谁都知道，", "书上说，", "老师教过我们，", "奶奶告诉我，", "大家都记得，", "别忘了，"],
];

fn facts(language: Language) -> Vec<Fact> {
    let relations: &[Relation] = match language {
        Language::English => &ENGLISH,
        Language::Chinese => &CHINESE,
    };
    let fact = |relation: usize, patterns: &[&str], (one, two): (&str, &str)| {
        let wording = |pattern: &&str| {
            pattern.chars().fold(String::new(), |mut text, c| {
                match c {
                    '1' => text.push_str(one),
                    '2' => text.push_str(two),
                    c => text.push(c),
                }
                text
            })
        };
        Fact { relation, wordings: patterns.iter().map(wording).collect() }
    };
    let numbered = relations.iter().enumerate();
    numbered.flat_map(|(i, r)| r.pairs.iter().map(move |pair| fact(i, r.patterns, *pair))).collect()
}

/// A document of different facts: of one relation, or of all. None of them comes twice, so that none can be copied.
pub(super) fn document(language: Language, draws: &mut Draws) -> String {
    let mut all = facts(language);
    let relation = all[draws.below(all.len())].relation;
    if draws.percent(50) && all.iter().filter(|fact| fact.relation == relation).count() >= 4 {
        all.retain(|fact| fact.relation == relation);
    }
    let sentences = (4 + draws.below(9)).min(all.len());
    let mut text = String::new();
    for i in 0..sentences {
        let j = i + draws.below(all.len() - i);
        all.swap(i, j);
        let wording = draws.choose(&all[i].wordings).replace(['[', ']'], "");
        let lead = if draws.percent(15) { draws.pick(&LEADS[language as usize]) } else { "" };
        match language {
            Language::English => {
                let gap = if i == 0 { "" } else { " " };
                text.push_str(&format!("{gap}{}.", finish(&format!("{lead}{wording}"))));
            }
            Language::Chinese => text.push_str(&format!("{lead}{wording}。")),
        }
    }
    text
}

/// The first wording of every fact as a question.
pub(super) fn probes() -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    for language in [Language::English, Language::Chinese] {
        for fact in facts(language) {
            let asked = &fact.wordings[0];
            let (Some(start), Some(end)) = (asked.find('['), asked.find(']')) else { continue };
            let answer = asked[start + 1..end].to_owned();
            let masked = format!("{}[MASK]{}", &asked[..start], &asked[end + 1..]);
            let text = match language {
                Language::English => format!("{}.", finish(&masked)),
                Language::Chinese => format!("{masked}。"),
            };
            probes.push(Probe { text, answer, language });
        }
    }
    probes
}
