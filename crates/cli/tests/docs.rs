//! The pages: every link leads somewhere, and the Chinese pages say what the English ones say, as far as a program can tell.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn markdown(folder: &Path) -> Vec<PathBuf> {
    let mut pages: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "md")).collect();
    pages.sort();
    pages
}

/// The lines outside of code blocks, and the code blocks.
fn parts(text: &str) -> (Vec<&str>, Vec<Vec<&str>>) {
    let (mut prose, mut blocks, mut fence) = (Vec::new(), Vec::new(), None);
    for line in text.lines() {
        let mark = line.trim_start().starts_with("```");
        match (&fence, mark) {
            (None, true) => {
                fence = Some(());
                blocks.push(vec![line]);
            }
            (Some(()), true) => fence = None,
            (Some(()), false) => blocks.last_mut().unwrap().push(line),
            (None, false) => prose.push(line),
        }
    }
    assert!(fence.is_none(), "a code block without its end");
    (prose, blocks)
}

fn level(line: &str) -> Option<usize> {
    let level = line.len() - line.trim_start_matches('#').len();
    ((1..=6).contains(&level) && line[level..].starts_with(' ')).then_some(level)
}

/// The anchor that a heading gets: lower case, blanks as hyphens, without punctuation.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Targets of links, `[text](target)`, outside of code.
fn links(prose: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose {
        let line: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        for (at, _) in line.match_indices("](") {
            let target = &line[at + 2..];
            found.push(target[..target.find(')').unwrap_or(target.len())].to_owned());
        }
    }
    found
}

#[test]
fn every_link_leads_somewhere() {
    let root = root();
    let mut pages = markdown(&root);
    for folder in ["docs", "docs/zh", "examples", "fixtures", "fuzz", "deploy"] {
        if root.join(folder).exists() {
            pages.extend(markdown(&root.join(folder)));
        }
    }
    let (mut dead, mut seen) = (Vec::new(), 0);
    for page in &pages {
        let text = std::fs::read_to_string(page).unwrap();
        let (prose, _) = parts(&text);
        for link in links(&prose).into_iter().filter(|l| !l.contains("://") && !l.starts_with("mailto:")) {
            seen += 1;
            let (path, wanted) = link.split_once('#').map_or((link.as_str(), None), |(p, a)| (p, Some(a)));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let there = match wanted {
                None => target.exists(),
                Some(wanted) => std::fs::read_to_string(&target).is_ok_and(|t| {
                    let (prose, _) = parts(&t);
                    prose.iter().filter(|l| level(l).is_some()).any(|l| anchor(l) == wanted)
                }),
            };
            if !there {
                dead.push(format!("{}: {link}", page.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(seen > 100, "{seen} links");
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// A line of code without its comment, which is translated.
fn code(line: &str) -> String {
    let end = ["# ", "// "]
        .iter()
        .filter_map(|mark| line.match_indices(mark).map(|(at, _)| at).find(|&at| at == 0 || line[..at].ends_with(' ')))
        .min();
    line[..end.unwrap_or(line.len())].trim_end().to_owned()
}

#[test]
fn chinese_pages_say_what_the_english_ones_say() {
    let docs = root().join("docs");
    let names =
        |folder: &Path| markdown(folder).iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect::<BTreeSet<_>>();
    // Figures of measurements stay in one place.
    let alone = ["benchmarks.md", "cuda.md", "results.md"].map(str::to_owned).into();
    assert_eq!(names(&docs).difference(&alone).cloned().collect::<BTreeSet<_>>(), names(&docs.join("zh")));
    let mut faults = Vec::new();
    for name in names(&docs.join("zh")) {
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let (english, chinese) = (read(docs.join(&name)), read(docs.join("zh").join(&name)));
        let mut check = |what: &str, (a, b): (String, String)| {
            if a != b {
                faults.push(format!("{name}: {what}:\n  {a}\n  {b}"));
            }
        };
        check("the way to the other", (english.lines().nth(2).unwrap().into(), format!("**English** · [中文](zh/{name})")));
        check("the way back", (chinese.lines().nth(2).unwrap().into(), format!("[English](../{name}) · **中文**")));
        let ((prose, blocks), (prose_zh, blocks_zh)) = (parts(&english), parts(&chinese));
        let levels = |prose: &[&str]| prose.iter().filter_map(|l| level(l)).map(|l| l.to_string()).collect::<String>();
        check("levels of its headings", (levels(&prose), levels(&prose_zh)));
        // A row of a table by its number of cells; formulas have bars, too, so only those at a row's ends and between blanks count.
        let rows = |prose: &[&str]| {
            prose.iter().filter(|l| l.starts_with('|')).map(|l| l.matches(" | ").count().to_string()).collect::<Vec<_>>().join(" ")
        };
        check("rows of its tables", (rows(&prose), rows(&prose_zh)));
        check("number of code blocks", (blocks.len().to_string(), blocks_zh.len().to_string()));
        for (block, block_zh) in blocks.iter().zip(&blocks_zh) {
            let bare = |block: &[&str]| block.iter().map(|l| code(l)).collect::<Vec<_>>().join("\n  ");
            check("code", (bare(block), bare(block_zh)));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
