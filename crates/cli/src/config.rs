//! The file of `cloze serve --config`: its keys are the long options, with `_` for `-`; its values stand in for the defaults. So a flag
//! overrides a variable, a variable the file, and the file the default, and every key is one that `--help` shows.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::de::{DeTable, DeValue};

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// It cannot be read.
    #[error("{}: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("{}: line {line}: {problem}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The parser's words.
        problem: String,
    },
    /// A key that is no option.
    #[error("{}: line {line}: there is no `{key}`; there are {}", path.display(), known.join(", "))]
    Key {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The keys there are.
        known: Vec<String>,
    },
    /// A value that its option does not take.
    #[error("{}: line {line}: `{key}`: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What is wrong, and what is expected.
        problem: String,
    },
}

/// Options of the whole program that a server's file may set, too.
const GLOBAL: [&str; 3] = ["device", "threads", "quiet"];
/// Options of the server that make no sense in its file.
const NOT_IN_FILE: [&str; 3] = ["config", "help", "version"];

/// The keys of a file: every long option of the command, and some of the whole program.
fn keys(program: &Command, name: &str) -> Vec<String> {
    let own = program.find_subcommand(name).into_iter().flat_map(Command::get_arguments).filter_map(Arg::get_long);
    let own = own.filter(|long| !NOT_IN_FILE.contains(long) && !GLOBAL.contains(long) && *long != "json");
    own.chain(GLOBAL).map(|long| long.replace('-', "_")).collect()
}

/// The program with the values of a file as the defaults of one of its commands.
pub(crate) fn with_file(program: &dyn Fn() -> Command, name: &'static str, path: &Path) -> Result<Command, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let table = DeTable::parse(&text).map_err(|e| ConfigError::Toml {
        path: path.to_owned(),
        line: line(e.span().map_or(0, |s| s.start)),
        problem: e.message().to_owned(),
    })?;
    let known = keys(&program(), name);
    let mut command = program();
    for (key, value) in table.get_ref() {
        let (at, key) = (line(key.span().start), key.get_ref().to_string());
        if !known.contains(&key) {
            return Err(ConfigError::Key { path: path.to_owned(), line: at, key, known });
        }
        let fault = |problem: String| ConfigError::Value { path: path.to_owned(), line: at, key: key.clone(), problem };
        let values = values(value.get_ref()).ok_or_else(|| fault("write a text, a number, true or false, or a list of these".into()))?;
        accepted(program, name, &key, &values).map_err(fault)?;
        command = defaulted(command, name, &key, &values);
    }
    Ok(command)
}

/// A value as it would stand on the command line; of a list each.
fn values(value: &DeValue) -> Option<Vec<String>> {
    Some(match value {
        DeValue::String(text) => vec![text.to_string()],
        DeValue::Integer(n) => vec![n.to_string()],
        DeValue::Float(n) => vec![n.to_string()],
        DeValue::Boolean(b) => vec![b.to_string()],
        DeValue::Array(items) => {
            let one = |item: &DeValue| values(item).filter(|v| v.len() == 1).and_then(|mut v| v.pop());
            items.iter().map(|item| one(item.get_ref())).collect::<Option<_>>()?
        }
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}

fn is_flag(program: &Command, name: &str, key: &str) -> bool {
    let of = |command: &Command| {
        command.get_arguments().find(|a| a.get_id() == key).is_some_and(|a| matches!(a.get_action(), ArgAction::SetTrue))
    };
    program.find_subcommand(name).is_some_and(of) || of(program)
}

/// Whether the option takes these values: asked of the command line itself.
fn accepted(program: &dyn Fn() -> Command, name: &str, key: &str, values: &[String]) -> Result<(), String> {
    let long = format!("--{}", key.replace('_', "-"));
    let mut line = vec!["cloze".to_owned(), name.to_owned()];
    if is_flag(&program(), name, &id(&program(), name, key)) {
        match values {
            [on] if on == "true" => line.push(long),
            [off] if off == "false" => {}
            _ => return Err("write true or false".into()),
        }
    } else {
        line.extend(values.iter().map(|value| format!("{long}={value}")));
    }
    if !line.iter().any(|l| l.starts_with("--model")) {
        line.push("--model=.".into());
    }
    match program().try_get_matches_from(line) {
        Ok(_) => Ok(()),
        // its first line says what was found and what is wrong; the rest is about flags
        Err(e) => Err(e.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()),
    }
}

/// The name by which the program knows the option of a key.
fn id(program: &Command, name: &str, key: &str) -> String {
    let long = key.replace('_', "-");
    let of = |command: &Command| command.get_arguments().find(|a| a.get_long() == Some(&long)).map(|a| a.get_id().to_string());
    program.find_subcommand(name).and_then(of).or_else(|| of(program)).unwrap_or_default()
}

fn defaulted(program: Command, name: &'static str, key: &str, values: &[String]) -> Command {
    let id = id(&program, name, key);
    // The command line keeps its defaults for the life of the program.
    let values: Vec<&'static str> = values.iter().map(|value| &*Box::leak(value.clone().into_boxed_str())).collect();
    // A key or a path of the file is not shown as if it were the program's own default; a flag has no value to hide.
    let change = move |arg: Arg| {
        let flag = matches!(arg.get_action(), ArgAction::SetTrue);
        arg.default_values(values.clone()).hide_default_value(!flag)
    };
    if GLOBAL.contains(&key) { program.mut_arg(id, change) } else { program.mut_subcommand(name, |command| command.mut_arg(id, change)) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    fn of(text: &str) -> Result<Command, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        with_file(&Cli::command, "serve", file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_file_stands_below_flags_and_above_defaults() {
        let text = "model = [\"en=a\", \"zh=b\"]\nport = 4000\nmax_batch_tokens = 2_048\nno_playground = true\nauto_truncate = false\nthreads = 3\n";
        let matches = of(text).unwrap().try_get_matches_from(["cloze", "serve", "--config", "serve.toml", "--port", "5000"]).unwrap();
        let (_, serve) = matches.subcommand().unwrap();
        let models: Vec<&String> = serve.get_many("models").unwrap().collect();
        assert_eq!(models, ["en=a", "zh=b"]);
        assert_eq!((serve.get_one::<u16>("port"), serve.get_one::<usize>("max_batch_tokens")), (Some(&5000), Some(&2048)));
        assert_eq!((serve.get_flag("no_playground"), serve.get_one::<bool>("auto_truncate")), (true, Some(&false)));
        assert_eq!((serve.get_one::<usize>("max_connections"), serve.get_one::<u16>("threads")), (Some(&4096), Some(&3)));
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        for (text, line, says) in [
            ("port = 3000\nprot = 1\n", 2, "`prot`"),
            ("port = \"many\"\n", 1, "many"),
            ("\n\nprecision = \"f64\"\n", 3, "auto, f32 or bf16"),
            ("port = 1\nno_playground = 3\n", 2, "true or false"),
            ("[limits]\nport = 1\n", 1, "`limits`"),
            ("port = 1 1\n", 1, ""),
            ("config = \"x\"\n", 1, "`config`"),
            ("api_key = { a = 1 }\n", 1, "a list of these"),
            ("max-batch-tokens = 1\n", 1, "max_batch_tokens"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(&format!(": line {line}: ")) && error.contains(says), "{text:?}: {error}");
        }
    }

    /// Each key stands in the help, and in docs/serve.md with its variable.
    #[test]
    fn every_key_is_told() {
        let program = Cli::command();
        let docs = include_str!("../../../docs/serve.md");
        let help = program.clone().find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        for key in keys(&program, "serve") {
            let flag = format!("--{}", key.replace('_', "-"));
            assert!(GLOBAL.contains(&key.as_str()) || help.contains(&flag), "{flag} is not in the help");
            assert!(docs.contains(&format!("`{flag}")), "{flag} is not in docs/serve.md");
        }
        for arg in program.find_subcommand("serve").unwrap().get_arguments() {
            if let Some(variable) = arg.get_env() {
                assert!(docs.contains(&format!("`{}`", variable.to_string_lossy())), "{variable:?} is not in docs/serve.md");
            }
        }
    }
}
