//! What commands about tasks share: the tasks' names, columns, what may be asked, rows of input.

use clap::builder::PossibleValuesParser;
use cloze::task::{Columns, Options as TaskOptions, TASKS};

/// The names of all tasks, as values of an option.
pub(crate) fn task_names() -> PossibleValuesParser {
    PossibleValuesParser::new(TASKS.iter().map(|t| t.name()))
}

/// Which columns hold which values.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct ColumnArgs {
    /// The column of a value of the task, such as text=body; found by name otherwise
    #[arg(long = "column", value_name = "VALUE=COLUMN", value_parser = pair)]
    column: Vec<(String, String)>,
    /// The column of the text, or of the first of a pair; as --column text=
    #[arg(long)]
    text_column: Option<String>,
    /// The column of the second text of a pair; as --column pair=
    #[arg(long)]
    pair_column: Option<String>,
    /// The column of the label; as --column label=
    #[arg(long)]
    label_column: Option<String>,
}

impl ColumnArgs {
    /// The columns as given.
    pub(crate) fn columns(&self) -> Columns {
        let named = [("text", &self.text_column), ("pair", &self.pair_column), ("label", &self.label_column)];
        let named = named.into_iter().filter_map(|(field, column)| Some((field.to_owned(), column.clone()?)));
        Columns(self.column.iter().cloned().chain(named).collect())
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (field, column) = text.split_once('=').ok_or("write it as value=column, such as text=body")?;
    Ok((field.to_owned(), column.to_owned()))
}

/// What may be asked of a task.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct AskArgs {
    /// How many candidates, labels, answers or hits are given
    #[arg(long)]
    top_k: Option<usize>,
    /// Something else that the task may be asked, such as stride=64, no_answer=true or joint=true; see docs/tasks.md
    #[arg(long = "option", value_name = "KEY=VALUE")]
    option: Vec<String>,
}

impl AskArgs {
    /// The options as given.
    pub(crate) fn options(&self) -> anyhow::Result<TaskOptions> {
        let mut map = serde_json::Map::new();
        if let Some(k) = self.top_k {
            map.insert("top_k".into(), k.into());
        }
        for option in &self.option {
            let (key, text) = option.split_once('=').ok_or_else(|| anyhow::anyhow!("--option {option}: write it as key=value"))?;
            let value = serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.to_owned()));
            map.insert(key.trim().to_owned(), value);
        }
        serde_json::from_value(map.into()).map_err(|e| anyhow::anyhow!("--option: {e}"))
    }
}
