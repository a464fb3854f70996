//! The model card: README.md of a model folder.

use std::fmt::Write;

/// What the card of a model says. Everything in it was measured or configured; nothing is invented.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// Title.
    pub title: String,
    /// Languages, as codes (en, zh).
    pub languages: Vec<String>,
    /// The pipeline that it serves (fill-mask, text-classification), as Hugging Face names it.
    pub pipeline: String,
    /// A few sentences on what it is.
    pub summary: String,
    /// What it was trained on, line by line.
    pub data: Vec<String>,
    /// Measured figures: name, value, on what.
    pub figures: Vec<(String, String, String)>,
    /// How to use it: commands.
    pub usage: Vec<String>,
    /// The run that made it, as TOML.
    pub run: String,
}

impl Card {
    /// The card as Markdown with its front matter.
    pub fn to_markdown(&self) -> String {
        let mut s = String::from("---\n");
        if !self.languages.is_empty() {
            s.push_str("language:\n");
            for l in &self.languages {
                let _ = writeln!(s, "- {l}");
            }
        }
        let _ = writeln!(
            s,
            "library_name: transformers\npipeline_tag: {}\ntags:\n- cloze\n---\n\n# {}\n\n{}\n",
            self.pipeline, self.title, self.summary
        );
        if !self.data.is_empty() {
            s.push_str("## Data\n\n");
            for line in &self.data {
                let _ = writeln!(s, "- {line}");
            }
            s.push('\n');
        }
        if !self.figures.is_empty() {
            s.push_str("## Figures\n\n| figure | value | measured on |\n|---|---|---|\n");
            for (name, value, on) in &self.figures {
                let _ = writeln!(s, "| {name} | {value} | {on} |");
            }
            s.push('\n');
        }
        if !self.usage.is_empty() {
            let _ = writeln!(s, "## Use\n\n```sh\n{}\n```\n", self.usage.join("\n"));
        }
        if !self.run.is_empty() {
            let _ = writeln!(s, "## The run\n\n```toml\n{}\n```", self.run.trim_end());
        }
        s
    }
}
