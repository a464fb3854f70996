//! The list of tasks.

/// A task as the doors (command line, HTTP, Python) show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name, as Hugging Face's pipelines have it.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Whether `finetune` trains it.
    pub trainable: bool,
}

/// All tasks.
pub static TASKS: [Task; 2] = [
    Task { name: "text-classification", about: "one text or a pair → one of the labels", trainable: true },
    Task { name: "fill-mask", about: "the likeliest tokens for each [MASK]", trainable: false },
];

/// The task of that name.
pub fn task(name: &str) -> Option<&'static Task> {
    TASKS.iter().find(|t| t.name == name)
}
