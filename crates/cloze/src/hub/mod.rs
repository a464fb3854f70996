//! Models by name (`org/name`, `org/name@revision`) through the Hugging Face hub's cache, whose layout every program of that world shares:
//!
//! ```text
//! HF_HUB_CACHE, or HF_HOME/hub, or ~/.cache/huggingface/hub
//!   models--org--name/
//!     refs/main                      the commit that the branch was at
//!     blobs/<etag>                   the files, by their hash
//!     snapshots/<commit>/<file>      links to them: this is the model folder
//! ```
//!
//! A snapshot that Cloze fetched is used without asking anybody: `.cloze_complete` in it, written last, names the files that belong to it. Other
//! programs fetch a file when they need it and leave the others out, so that what they began is asked about once, at its own commit, and completed. What is
//! missing is fetched from `HF_ENDPOINT` (<https://huggingface.co>), unless `HF_HUB_OFFLINE` is set: weights as safetensors, the configuration, the
//! tokenizer; never code. A broken download goes on where it broke off; every file is checked against its hash before it gets its name.

mod fetch;

use std::path::{Path, PathBuf};

use cloze_model::files::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};

/// Why a model by name is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The cache lacks it, and the network may not be asked.
    #[error(
        "{model} is not in the cache ({cache}) with configuration, weights and tokenizer, and HF_HUB_OFFLINE forbids the network; unset it, or copy a model folder here and give its path"
    )]
    Offline {
        /// Name and revision.
        model: String,
        /// The cache.
        cache: PathBuf,
    },
    /// A file names it, and only a person's word makes Cloze fetch something.
    #[error(
        "{file} names {model}, which is not in the cache ({cache}), and nothing is fetched because a file says so; `cloze inspect {model}` fetches it, or give a base with --model BASE --adapter {}",
        file.parent().unwrap_or(file).display()
    )]
    NamedByFile {
        /// The file.
        file: PathBuf,
        /// Name and revision.
        model: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub cannot be reached.
    #[error(
        "{url} cannot be reached: {cause}; {model} is not in the cache ({cache}) either. Check the network, HF_ENDPOINT and the proxy, or give a model folder's path"
    )]
    Unreachable {
        /// Name and revision.
        model: String,
        /// What was asked.
        url: String,
        /// What the network says.
        cause: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The hub knows no such model or revision.
    #[error("{url}: not found: the hub has no model or revision {model}; check the spelling")]
    NotFound {
        /// Name and revision.
        model: String,
        /// What was asked.
        url: String,
    },
    /// The hub wants to know who asks.
    #[error("{url}: status {status}: {model} wants a token of someone who may read it; set HF_TOKEN")]
    Forbidden {
        /// Name and revision.
        model: String,
        /// What was asked.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// The hub answers with an error.
    #[error("{url}: status {status}")]
    Status {
        /// What was asked.
        url: String,
        /// The status.
        status: u16,
    },
    /// The answer is not what the hub's interface says.
    #[error("{url}: {fault}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong.
        fault: String,
    },
    /// The connection broke.
    #[error("{url}: the download broke off: {cause}; run the command again, it goes on where it stopped")]
    Broken {
        /// What was fetched.
        url: String,
        /// What the network says.
        cause: String,
    },
    /// What came is not what the hub has.
    #[error("{url}: {what} is {found}, the hub says {expected}; the download was thrown away, run the command again")]
    Damaged {
        /// What was fetched.
        url: String,
        /// Length or hash.
        what: &'static str,
        /// What came.
        found: String,
        /// What should have come.
        expected: String,
    },
    /// The model has no weights that can be read.
    #[error("{model} has neither model.safetensors nor pytorch_model.bin; it holds {files}")]
    NoWeights {
        /// Name and revision.
        model: String,
        /// Some of what it holds.
        files: String,
    },
    /// This program was built without TLS.
    #[error(
        "{url}: this build of Cloze speaks no https; build it with --features hub, or set HF_ENDPOINT to a mirror that is reached by http"
    )]
    NoTls {
        /// What was asked.
        url: String,
    },
    /// Neither a folder nor a model that is to be had by name.
    #[error("there is no folder {path}, and the hub's model of that name is not to be had: {cause}")]
    Neither {
        /// What was given.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: Box<HubError>,
    },
    /// A file of the cache cannot be read or written.
    #[error("{path}: cannot {action}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        cause: std::io::Error,
    },
}

impl HubError {
    fn file(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| HubError::File { path: path.to_owned(), action, cause }
    }
}

/// A model's name on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `org/name`, or one of the hub's old names without an organisation, such as `bert-base-uncased`.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Name {
    /// The name that `text` is: two parts of letters, digits, `.`, `_` and `-`, or one with a `-` in it, and a revision after `@`. `None`: it is
    /// none.
    pub fn parse(text: &str) -> Option<Self> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
        // The old names all have a hyphen; a single word is a folder that is not there.
        let (org, name) = repository.split_once('/').or_else(|| repository.contains('-').then_some((repository, repository)))?;
        let part = |s: &str, more: &str| {
            !s.is_empty()
                && s.len() <= 96
                && !s.starts_with(['.', '-'])
                && !s.contains("..")
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b) || more.as_bytes().contains(&b))
        };
        let sound = part(org, "")
            && part(name, "")
            && part(revision, "/")
            && !revision.starts_with('/')
            && !revision.ends_with('/')
            && !revision.contains("//");
        sound.then(|| Self { repository: repository.into(), revision: revision.into() })
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.repository, self.revision)
    }
}

/// Where models come from.
#[derive(Clone)]
pub struct Hub {
    /// The folder of the cache.
    pub cache: PathBuf,
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// Whether the network may be asked.
    pub offline: bool,
    /// Who asks.
    pub token: Option<String>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        f.debug_struct("Hub")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// Events of a download, for displays.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// A file begins; bytes that are here already, and its length where the hub says it.
    File {
        /// Its name.
        name: &'a str,
        /// Bytes of an earlier attempt.
        have: u64,
        /// Its length.
        size: Option<u64>,
    },
    /// So many bytes of it are here.
    Bytes(u64),
}

impl Hub {
    /// As the environment says: `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_TOKEN`, and the token that
    /// `hf auth login` left in `HF_HOME/token`.
    pub fn from_env() -> Self {
        Self::of(|key| std::env::var(key).ok().filter(|v| !v.is_empty()))
    }

    fn of(var: impl Fn(&str) -> Option<String>) -> Self {
        let home = || var("HOME").or_else(|| var("USERPROFILE")).map_or_else(|| PathBuf::from("."), PathBuf::from);
        let base = var("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = var("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
            cache.join("huggingface")
        });
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE")).map_or_else(|| base.join("hub"), PathBuf::from);
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()).trim_end_matches('/').to_owned();
        let yes = |v: String| ["1", "on", "yes", "true"].contains(&v.to_ascii_lowercase().as_str());
        let token = || std::fs::read_to_string(var("HF_TOKEN_PATH").map_or_else(|| base.join("token"), PathBuf::from)).ok();
        let token = var("HF_TOKEN").or_else(token).map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
        Self { cache, endpoint, offline: var("HF_HUB_OFFLINE").is_some_and(yes), token }
    }

    /// The folder of a repository in the cache.
    fn repository(&self, name: &Name) -> PathBuf {
        self.cache.join(format!("models--{}", name.repository.replace('/', "--")))
    }

    /// The commit of a model that the cache knows, and its snapshot, which may lack files.
    fn known(&self, name: &Name) -> Option<(String, PathBuf)> {
        let repository = self.repository(name);
        let commit = match std::fs::read_to_string(repository.join("refs").join(&name.revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => name.revision.clone(),
        };
        let snapshot = repository.join("snapshots").join(&commit);
        is_commit(&commit).then_some((commit, snapshot))
    }

    /// The snapshot of a model that can be used without the network: all that was fetched of it is there, or, where another program brought it
    /// into the cache, its configuration, its weights and a tokenizer.
    pub fn cached(&self, name: &Name) -> Option<PathBuf> {
        let (_, snapshot) = self.known(name)?;
        let usable = has_adapter(&snapshot) || has_weights(&snapshot) && has_tokenizer(&snapshot);
        (usable || is_complete(&snapshot)).then_some(snapshot)
    }

    /// The model's folder: from the cache, or fetched into it. A branch that is in the cache is not asked about again: give a revision, or remove its `refs`, to
    /// get a newer one.
    ///
    /// # Errors
    /// Says what is missing and what to do.
    pub fn folder(&self, name: &Name, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, HubError> {
        let known = self.known(name);
        if let Some((_, snapshot)) = known.as_ref().filter(|(_, snapshot)| is_complete(snapshot)) {
            return Ok(snapshot.clone());
        }
        if self.offline {
            return self.cached(name).ok_or_else(|| HubError::Offline { model: name.to_string(), cache: self.cache.clone() });
        }
        // What was begun is completed, even if its branch is somewhere else by now.
        let begun = known.filter(|(_, snapshot)| has_adapter(snapshot) || has_weights(snapshot)).map(|(commit, _)| commit);
        fetch::fetch(self, name, begun.as_deref(), progress)
    }
}

/// Names the files that belong to a snapshot, a line each; written when all of them are there.
pub(crate) const COMPLETE: &str = ".cloze_complete";

/// Whether a snapshot was fetched to its end, and nothing of it was removed since.
fn is_complete(snapshot: &Path) -> bool {
    let names = std::fs::read_to_string(snapshot.join(COMPLETE));
    names.is_ok_and(|names| !names.is_empty() && names.lines().all(|name| snapshot.join(name).exists()))
}

/// Whether it is an adapter, which needs no other files.
fn has_adapter(snapshot: &Path) -> bool {
    [ADAPTER_CONFIG, ADAPTER_WEIGHTS].iter().all(|file| snapshot.join(file).exists())
}

/// Whether the configuration and the weights are there.
fn has_weights(snapshot: &Path) -> bool {
    let there = |file: &str| snapshot.join(file).exists();
    let weights = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
    there("config.json") && weights.into_iter().any(there) && shards_are_there(snapshot)
}

/// Whether one of the files is there that a tokenizer is read from.
fn has_tokenizer(snapshot: &Path) -> bool {
    let whole = ["tokenizer.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model"];
    whole.iter().any(|file| snapshot.join(file).exists())
}

/// A commit is known by the hexadecimal digits of its hash.
fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether every shard that an index of the snapshot names is there.
fn shards_are_there(snapshot: &Path) -> bool {
    ["model.safetensors", "pytorch_model.bin"].iter().all(|stem| {
        let index = snapshot.join(format!("{stem}.index.json"));
        if !index.exists() || snapshot.join(stem).exists() {
            return true;
        }
        let Ok(value) = cloze_model::files::config::read_json(&index) else { return false };
        let files = value.get("weight_map").and_then(|m| m.as_object());
        files.is_some_and(|map| map.values().filter_map(|v| v.as_str()).all(|file| snapshot.join(file).exists()))
    })
}

/// The model's folder that `text` means: a path that exists, or a model by name through [`Hub::from_env`].
///
/// # Errors
/// When it is a name and the model is not to be had. A path that does not exist and is no name is given back as it is.
pub fn model_folder(text: &Path, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, HubError> {
    match name_of(text) {
        Some(name) => {
            Hub::from_env().folder(&name, progress).map_err(|cause| HubError::Neither { path: text.to_owned(), cause: Box::new(cause) })
        }
        None => Ok(text.to_owned()),
    }
}

/// As [`model_folder`], for a model that `file` names: a path that exists, or a model that is in the cache already. Nothing is fetched.
///
/// # Errors
/// When it is a name and the cache lacks the model.
pub fn model_named_in(file: &Path, text: &Path) -> Result<PathBuf, HubError> {
    let Some(name) = name_of(text) else { return Ok(text.to_owned()) };
    let hub = Hub::from_env();
    hub.cached(&name).ok_or_else(|| HubError::NamedByFile { file: file.to_owned(), model: text.display().to_string(), cache: hub.cache })
}

/// The name on the hub that `text` is, where it is not a path.
fn name_of(text: &Path) -> Option<Name> {
    // Where the first part is a folder here, a path is meant.
    let here = text.exists() || text.parent().is_some_and(|parent| !parent.as_os_str().is_empty() && parent.exists());
    text.to_str().and_then(Name::parse).filter(|_| !here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = |text: &str| Name::parse(text).map(|n| (n.repository, n.revision));
        assert_eq!(name("a/b"), Some(("a/b".into(), "main".into())));
        assert_eq!(name("google-bert/bert.base_x@refs/pr/3"), Some(("google-bert/bert.base_x".into(), "refs/pr/3".into())));
        assert_eq!(name("bert-base-uncased@v1"), Some(("bert-base-uncased".into(), "v1".into())));
        for text in [
            "",
            "a",
            "-a",
            "a-b/",
            "a/b/c",
            "../b",
            "a/..",
            "/a/b",
            "a/b@",
            "a/b@../c",
            "a/b@/x",
            "a b/c",
            "a/b@x//y",
            "./a/b",
            "a\\b/c",
            "runs/x/model",
        ] {
            assert_eq!(name(text), None, "{text}");
        }
    }

    #[test]
    fn the_environment() {
        let hub = |vars: &[(&str, &str)]| {
            let vars: Vec<(String, String)> = vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            Hub::of(move |key| vars.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()))
        };
        let plain = hub(&[("HOME", "/h")]);
        assert_eq!(
            (plain.cache, plain.endpoint, plain.offline),
            ("/h/.cache/huggingface/hub".into(), "https://huggingface.co".into(), false)
        );
        assert_eq!(hub(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]).cache, Path::new("/x/huggingface/hub"));
        assert_eq!(hub(&[("HF_HOME", "/f")]).cache, Path::new("/f/hub"));
        let all =
            hub(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c"), ("HF_ENDPOINT", "http://m/"), ("HF_HUB_OFFLINE", "1"), ("HF_TOKEN", " t ")]);
        assert_eq!(
            (all.cache.clone(), all.endpoint.as_str(), all.offline, all.token.as_deref()),
            ("/c".into(), "http://m", true, Some("t"))
        );
        assert!(!format!("{all:?}").contains("\"t\""), "the token is not printed");
    }
}
