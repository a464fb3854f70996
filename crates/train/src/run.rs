//! A run as one TOML file: read with unknown keys refused, changed by `--set key=value`, written back beside the model.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// The element kind of activations and product operands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// bf16 where the device multiplies it natively, f32 otherwise.
    #[default]
    Auto,
    /// Single precision throughout.
    F32,
    /// bf16 activations and operands; sums, weights, norms and losses in f32.
    Bf16,
}

/// Read a recipe and apply `--set` changes to it.
pub fn read<T: DeserializeOwned>(path: &Path, changes: &[String]) -> Result<T, TrainError> {
    let problem = |problem: String| TrainError::Recipe { path: path.to_owned(), problem };
    let text = std::fs::read_to_string(path).map_err(|e| problem(format!("cannot read the recipe: {e}")))?;
    let own = |e: toml::de::Error| problem(e.to_string());
    if changes.is_empty() {
        return toml::from_str(&text).map_err(own);
    }
    let table: toml::Table = toml::from_str(&text).map_err(own)?;
    changed(&table, changes).map_err(|fault| match fault {
        // Parsed from its text once more, a fault of the file itself is told with its line.
        Fault::Before(e) => own(toml::from_str::<T>(&text).err().unwrap_or(e)),
        Fault::Change(e) => e,
    })
}

/// A recipe from its text.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, TrainError> {
    toml::from_str(text).map_err(|e| TrainError::Recipe { path: "recipe".into(), problem: e.to_string() })
}

/// A run from defaults and `--set` changes alone.
pub fn from_defaults<T: DeserializeOwned + Serialize>(defaults: &T, changes: &[String]) -> Result<T, TrainError> {
    let mut table = toml::Table::try_from(defaults).map_err(|e| set_error("", e.to_string()))?;
    // Another kind of a thing has other keys: the defaults of the kind before go with it.
    for change in changes {
        let Some((path, kind)) = change.split_once('=').and_then(|(key, kind)| Some((key.trim().strip_suffix(".kind")?, kind))) else {
            continue;
        };
        let found = path.split('.').try_fold(&mut table, |at, part| at.get_mut(part)?.as_table_mut());
        if let Some(found) = found.filter(|t| t.get("kind").and_then(toml::Value::as_str) != Some(kind.trim().trim_matches('"'))) {
            found.clear();
        }
    }
    changed(&table, changes).map_err(|fault| match fault {
        Fault::Before(e) => set_error(&changes.join(" --set "), e.to_string()),
        Fault::Change(e) => e,
    })
}

/// Why a table with changes is no run.
enum Fault {
    /// It was not one before them, for the same reason.
    Before(toml::de::Error),
    /// One of them is at fault.
    Change(TrainError),
}

fn changed<T: DeserializeOwned>(before: &toml::Table, changes: &[String]) -> Result<T, Fault> {
    let parsed = |table: &toml::Table| toml::Value::Table(table.clone()).try_into::<T>();
    let mut table = before.clone();
    for change in changes {
        set(&mut table, change).map_err(Fault::Change)?;
    }
    let fault = match parsed(&table) {
        Ok(run) => return Ok(run),
        Err(e) => e,
    };
    // The first change that brings the fault about is the one to name.
    let same = |table: &toml::Table| parsed(table).is_err_and(|e| e.message() == fault.message());
    if same(before) {
        return Err(Fault::Before(fault));
    }
    let mut table = before.clone();
    let guilty = changes.iter().find(|change| set(&mut table, change).is_ok() && same(&table));
    Err(Fault::Change(set_error(guilty.map_or("", |c| c), fault.to_string())))
}

fn set_error(given: &str, problem: String) -> TrainError {
    TrainError::Set { given: given.to_owned(), problem: problem.trim().to_owned() }
}

/// Apply one `key.sub = value`; the value is TOML, or a plain string where it is none.
fn set(table: &mut toml::Table, change: &str) -> Result<(), TrainError> {
    let (key, text) =
        change.split_once('=').ok_or_else(|| set_error(change, "write it as key=value, for example train.budget=30m".into()))?;
    let value = toml::from_str::<toml::Table>(&format!("v = {}", text.trim()))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.trim().to_owned()));
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    let last = parts.pop().filter(|l| !l.is_empty()).ok_or_else(|| set_error(change, "the key is empty".into()))?;
    let mut at = table;
    for part in parts {
        let entry = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = entry.as_table_mut().ok_or_else(|| set_error(change, format!("`{part}` is a value, it has no keys")))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

/// The recipe as TOML, for the model's card and folder.
pub fn to_toml<T: Serialize>(run: &T) -> String {
    toml::to_string_pretty(run).unwrap_or_default()
}

/// The run as JSON, for logs and checkpoints.
pub fn to_json<T: Serialize>(run: &T) -> serde_json::Value {
    serde_json::to_value(run).unwrap_or_default()
}

/// Refuse a folder that holds a run already, unless it is to be resumed.
pub fn claim(out: &Path, resume: bool) -> Result<(), TrainError> {
    if !resume && is_begun(out) {
        return Err(TrainError::Occupied { folder: PathBuf::from(out) });
    }
    crate::files::create_folder(out).map_err(TrainError::from)
}

/// Whether a folder holds a run: its first checkpoint. One that failed before that has nothing to lose and nothing to resume.
pub fn is_begun(out: &Path) -> bool {
    let mut held = std::fs::read_dir(out.join("checkpoints")).into_iter().flatten().flatten();
    held.any(|entry| entry.file_name().to_string_lossy().starts_with("checkpoint-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        budget: String,
        tokens: usize,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        seed: u64,
        train: Inner,
    }

    fn run() -> Outer {
        Outer { seed: 1, train: Inner { budget: "30m".into(), tokens: 8192 } }
    }

    #[test]
    fn changes_reach_their_keys() {
        let changes = ["train.budget=1h30m".to_owned(), "train.tokens = 4096".into(), "seed=7".into()];
        let changed: Outer = from_defaults(&run(), &changes).unwrap();
        assert_eq!(changed, Outer { seed: 7, train: Inner { budget: "1h30m".into(), tokens: 4096 } });
    }

    #[test]
    fn faults_name_what_was_given() {
        for (given, expected) in [
            ("train.budgets=3", "unknown field `budgets`"),
            ("seed", "key=value"),
            ("seed=many", "invalid type"),
            ("seed.x=1", "`seed` is a value"),
            ("=1", "empty"),
        ] {
            let error = from_defaults(&run(), &[given.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(expected) && error.starts_with(&format!("--set {given}")), "{given}: {error}");
        }
    }

    #[test]
    fn a_folder_is_taken_where_a_checkpoint_stands() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("checkpoints")).unwrap();
        claim(folder.path(), false).unwrap();
        std::fs::create_dir(folder.path().join("checkpoints/checkpoint-3")).unwrap();
        assert!(matches!(claim(folder.path(), false), Err(TrainError::Occupied { .. })));
        claim(folder.path(), true).unwrap();
    }

    #[test]
    fn a_fault_of_the_file_has_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, "seed = 1\n[train]\nbudget = \"1m\"\ntoken = 3\n").unwrap();
        let error = read::<Outer>(&path, &[]).unwrap_err().to_string();
        assert!(error.contains("run.toml") && error.contains("line 4") && error.contains("token"), "{error}");
        // with changes, too, whatever they say
        let changed = |changes: &[&str]| {
            let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
            read::<Outer>(&path, &changes).unwrap_err().to_string()
        };
        assert_eq!(changed(&["seed=2"]), error);
        std::fs::write(&path, "seed = 1\n[train]\nbudget = \"1m\"\n").unwrap();
        let guilty = changed(&["train.tokens=3", "train.token=4", "seed=2"]);
        assert!(guilty.starts_with("--set train.token=4:") && guilty.contains("unknown field `token`"), "{guilty}");
        assert_eq!(read::<Outer>(&path, &["train.tokens=3".into()]).unwrap().train.tokens, 3, "a change may bring what is missing");
    }
}
