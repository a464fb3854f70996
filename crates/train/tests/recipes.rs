//! The recipes of the repository can be read, describe sound models, and name their own run folder.

use std::path::{Path, PathBuf};

use cloze_train::pretrain::PretrainRun;

/// The recipes and what their files are called.
fn recipes() -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut recipes: Vec<(String, PathBuf)> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), path))
        .collect();
    recipes.sort();
    recipes
}

#[test]
fn all_are_there() {
    let names: Vec<String> = recipes().into_iter().map(|(name, _)| name).collect();
    for expected in ["bert-base", "bilingual-small", "chinese-mini", "english-mini"] {
        assert!(names.iter().any(|n| n == expected), "{expected} is not among {names:?}");
    }
}

#[test]
fn each_reads_and_describes_a_model() {
    for (name, path) in recipes() {
        let run = PretrainRun::read(&path, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (_, blueprint) = run.blueprint(8192).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(blueprint.fault(), None, "{name}");
        assert_eq!(run.out, Path::new("runs").join(&name), "{name}: a run is found under its recipe's name");
        // Written out and read again it is the same run: nothing in it is lost in a checkpoint or a card.
        let again: PretrainRun = cloze_train::run::parse(&cloze_train::run::to_toml(&run)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(again, run, "{name}");
    }
}

#[test]
fn changes_on_the_command_line_reach_each() {
    let changes = ["train.budget=2m".to_owned(), "data.dir=elsewhere".into()];
    for (name, path) in recipes() {
        let run = PretrainRun::read(&path, &changes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((run.train.budget.to_string().as_str(), run.data.dir.as_path()), ("2m", Path::new("elsewhere")), "{name}");
    }
}

#[test]
fn bert_base_is_that_of_the_paper() {
    let (_, path) = recipes().into_iter().find(|(name, _)| name == "bert-base").unwrap();
    let run = PretrainRun::read(&path, &[]).unwrap();
    let (family, b) = run.blueprint(30_522).unwrap();
    assert_eq!(family, "bert");
    assert_eq!((b.num_hidden_layers, b.hidden_size, b.num_attention_heads, b.intermediate_size), (12, 768, 12, 3072));
    assert_eq!(
        (run.train.batch_tokens.max(), run.train.sequence_length.at(0.89), run.train.sequence_length.at(0.9)),
        (256 * 512, 128, 512)
    );
    assert_eq!((run.optimizer.lr, b.hidden_dropout, run.objective.mask_probability), (1e-4, 0.1, 0.15));
}
