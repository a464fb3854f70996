//! From the hub into the cache, file by file: `GET /api/models/{repository}/revision/{revision}` for the commit and its files, then `HEAD` and `GET
//! /{repository}/resolve/{commit}/{file}`.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloze_model::files::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use cloze_model::files::join::safe_join;
use cloze_model::files::sentence::ENCODER_CONFIGS;
use cloze_task::context::SETTINGS_FILE;
use cloze_train::files::replace_file;
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::convert::BESIDE;

use super::{COMPLETE, Hub, HubError, Name, Progress, is_commit, shards_are_there};

/// Whether a model is loaded from a file of this name, beside its weights.
fn is_wanted(name: &str) -> bool {
    ["config.json", ADAPTER_CONFIG, SETTINGS_FILE].contains(&name) || BESIDE.contains(&name) || ENCODER_CONFIGS.contains(&name)
}

/// The list of a repository's files is no longer than this.
const LISTING: u64 = 16 << 20;

/// Redirections on the hub itself that are followed.
const HOPS: usize = 5;

struct Session<'a> {
    hub: &'a Hub,
    name: &'a Name,
    agent: ureq::Agent,
}

/// Fetch a model, or what a snapshot of it lacks, whose commit is `begun`; its snapshot.
pub(super) fn fetch(hub: &Hub, name: &Name, begun: Option<&str>, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf, HubError> {
    let session = Session { hub, name, agent: agent() };
    let (commit, files) = match session.listing(begun.unwrap_or(&name.revision)) {
        Ok(listed) => listed,
        // Whoever cannot ask is served as one who may not.
        Err(fault) => return hub.cached(name).ok_or(fault),
    };
    let repository = hub.repository(name);
    let snapshot = repository.join("snapshots").join(&commit);
    for folder in [&snapshot, &repository.join("blobs"), &repository.join("refs")] {
        std::fs::create_dir_all(folder).map_err(HubError::file(folder, "make"))?;
    }
    let wanted = wanted(&files);
    if !wanted.iter().any(|f| f.ends_with(".safetensors") || f.ends_with(".bin")) {
        let some = files.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
        return Err(HubError::NoWeights { model: name.to_string(), files: some });
    }
    for file in &wanted {
        session.file(&repository, &snapshot, &commit, file, progress)?;
    }
    if !shards_are_there(&snapshot) {
        let fault = "the index of the weights names shards that the repository does not have".into();
        return Err(HubError::Answer { url: format!("{}/{}", hub.endpoint, name.repository), fault });
    }
    // With it the name leads to the snapshot.
    if name.revision != commit && begun.is_none() {
        let path = repository.join("refs").join(&name.revision);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(HubError::file(parent, "make"))?;
        }
        std::fs::write(&path, &commit).map_err(HubError::file(&path, "write"))?;
    }
    // Last. A cache that may not be written is asked about again, which is no reason to fail.
    let names = wanted.iter().map(|name| format!("{name}\n")).collect::<String>();
    let _ = replace_file(&snapshot.join(COMPLETE), |out| out.write_all(names.as_bytes()));
    Ok(snapshot)
}

/// Folder and name of a file.
fn parts(file: &str) -> (&str, &str) {
    file.rsplit_once('/').unwrap_or(("", file))
}

/// Those of a repository's files that a model is loaded from: safetensors where there are any, else PyTorch's, for `cloze convert`.
fn wanted(files: &[String]) -> Vec<&String> {
    let top = |f: &str| !f.contains('/');
    let safetensors = |f: &str| {
        f == ADAPTER_WEIGHTS
            || f == "model.safetensors"
            || f == "model.safetensors.index.json"
            || (f.starts_with("model-") && f.ends_with(".safetensors"))
    };
    let torch = |f: &str| {
        f == "pytorch_model.bin" || f == "pytorch_model.bin.index.json" || (f.starts_with("pytorch_model-") && f.ends_with(".bin"))
    };
    // Each folder by itself: a module may be of another kind than the encoder.
    let weights = |f: &str| {
        let (folder, file) = parts(f);
        let mut beside = files.iter().map(|other| parts(other)).filter(|(place, _)| *place == folder);
        if beside.any(|(_, name)| safetensors(name)) { safetensors(file) } else { torch(file) }
    };
    // `1_Pooling/config.json`, `2_Dense/model.safetensors`: modules of sentence-transformers.
    let module = |f: &str| {
        f.split_once('/').is_some_and(|(folder, file)| {
            let numbered = folder.split_once('_').is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            numbered && (weights(f) || is_wanted(file))
        })
    };
    files.iter().filter(|f| is_wanted(f) || (top(f) && weights(f)) || module(f)).collect()
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("cloze/", env!("CARGO_PKG_VERSION")))
        .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_recv_response(Some(Duration::from_secs(60)));
    #[cfg(feature = "hub")]
    let config = config.tls_config(
        ureq::tls::TlsConfig::builder()
            .provider(ureq::tls::TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(std::sync::Arc::new(rustls_graviola::default_provider()))
            .build(),
    );
    config.build().into()
}

impl Session<'_> {
    fn unreachable(&self, url: &str, cause: &dyn std::fmt::Display) -> HubError {
        if cfg!(not(feature = "hub")) && url.starts_with("https:") {
            return HubError::NoTls { url: url.into() };
        }
        HubError::Unreachable { model: self.name.to_string(), url: url.into(), cause: cause.to_string(), cache: self.hub.cache.clone() }
    }

    /// The token as a header; it goes to the hub alone, never along a redirect to another host.
    fn bearer(&self) -> Option<String> {
        self.hub.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    fn check(&self, url: &str, status: u16) -> Result<(), HubError> {
        let (model, url) = (self.name.to_string(), url.to_owned());
        match status {
            200..=399 => Ok(()),
            401 | 403 => Err(HubError::Forbidden { model, url, status }),
            404 => Err(HubError::NotFound { model, url }),
            status => Err(HubError::Status { url, status }),
        }
    }

    /// The commit that a revision is at, and its files.
    fn listing(&self, revision: &str) -> Result<(String, Vec<String>), HubError> {
        let url = format!("{}/api/models/{}/revision/{}", self.hub.endpoint, self.name.repository, revision.replace('/', "%2F"));
        let mut request = self.agent.get(&url);
        if let Some(bearer) = self.bearer() {
            request = request.header("authorization", bearer);
        }
        let mut response = request.call().map_err(|e| self.unreachable(&url, &e))?;
        self.check(&url, response.status().as_u16())?;
        let fault = |fault: String| HubError::Answer { url: url.clone(), fault };
        let text = response.body_mut().with_config().limit(LISTING).read_to_string().map_err(|e| fault(e.to_string()))?;
        let value: Value = serde_json::from_str(&text).map_err(|e| fault(format!("not JSON: {e}")))?;
        let commit = value.get("sha").and_then(Value::as_str).filter(|sha| is_commit(sha));
        let commit = commit.ok_or_else(|| fault("it names no commit (`sha`)".into()))?.to_owned();
        let files = value.get("siblings").and_then(Value::as_array).ok_or_else(|| fault("it lists no files (`siblings`)".into()))?;
        let files = files.iter().filter_map(|f| f.get("rfilename")?.as_str().map(str::to_owned)).collect();
        Ok((commit, files))
    }

    fn file(
        &self,
        repository: &Path,
        snapshot: &Path,
        commit: &str,
        file: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), HubError> {
        let url = format!("{}/{}/resolve/{commit}/{file}", self.hub.endpoint, self.name.repository);
        let place = safe_join(snapshot, file, Path::new(&url), "rfilename")
            .map_err(|e| HubError::Answer { url: url.clone(), fault: e.to_string() })?;
        if place.exists() {
            return Ok(());
        }
        let (etag, size) = self.head(&url)?;
        let blob = repository.join("blobs").join(&etag);
        if !blob.exists() {
            self.download(&url, file, &blob, &etag, size, progress)?;
        }
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent).map_err(HubError::file(parent, "make"))?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        link(&format!("{up}blobs/{etag}"), &blob, &place).map_err(HubError::file(&place, "link"))
    }

    /// Hash and length of a file. Large ones lie elsewhere; the hub says both before it sends there.
    fn head(&self, url: &str) -> Result<(String, Option<u64>), HubError> {
        let mut at = url.to_owned();
        let mut hops = 0;
        let response = loop {
            let mut request = self.agent.head(&at).config().max_redirects(0).max_redirects_will_error(false).build();
            if let Some(bearer) = self.bearer() {
                request = request.header("authorization", bearer);
            }
            let response = request.call().map_err(|e| self.unreachable(&at, &e))?;
            self.check(&at, response.status().as_u16())?;
            let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
            // A renamed repository, or a file's other address on the hub itself; elsewhere nobody is followed.
            let next = header("location").filter(|to| to.starts_with('/') && !to.starts_with("//") && header("x-linked-etag").is_none());
            match next.filter(|_| response.status().is_redirection() && hops < HOPS) {
                Some(next) => at = format!("{}{next}", self.hub.endpoint),
                None => break response,
            }
            hops += 1;
        };
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let etag = header("x-linked-etag").or_else(|| header("etag")).map(|e| e.trim_start_matches("W/").trim_matches('"').to_owned());
        let etag = etag.filter(|e| !e.is_empty() && e.len() <= 128 && e.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        let etag = etag.ok_or_else(|| HubError::Answer { url: url.into(), fault: "no etag that is a hash".into() })?;
        let redirected = response.status().is_redirection();
        let size = header("x-linked-size").or_else(|| header("content-length").filter(|_| !redirected)).and_then(|v| v.parse().ok());
        Ok((etag, size))
    }

    /// Fetch a file, going on where an earlier attempt broke off, and check it.
    fn download(
        &self,
        url: &str,
        name: &str,
        blob: &Path,
        etag: &str,
        size: Option<u64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), HubError> {
        let partial = blob.with_file_name(format!("{etag}.incomplete"));
        let mut out = File::options().create(true).read(true).append(true).open(&partial).map_err(HubError::file(&partial, "write"))?;
        // Another program that fetches the same file is waited for; what it has fetched need not be fetched again. Without locks (some network file
        // systems) the hash tells.
        let _ = out.lock();
        if blob.exists() {
            return Ok(());
        }
        let mut have = out.metadata().map_err(HubError::file(&partial, "read"))?.len();
        if size.is_some_and(|size| have > size) {
            out.set_len(0).map_err(HubError::file(&partial, "write"))?;
            have = 0;
        }
        progress(Progress::File { name, have, size });
        if size != Some(have) || have == 0 {
            let mut request = self.agent.get(url);
            if let Some(bearer) = self.bearer() {
                request = request.header("authorization", bearer);
            }
            if have > 0 {
                request = request.header("range", format!("bytes={have}-"));
            }
            let response = request.call().map_err(|e| self.unreachable(url, &e))?;
            let status = response.status().as_u16();
            self.check(url, status)?;
            if have > 0 && status != 206 {
                // A server without ranges sends all of it.
                out.set_len(0).map_err(HubError::file(&partial, "write"))?;
                have = 0;
            }
            let mut body = response.into_body().into_reader();
            let mut buffer = vec![0; 1 << 16];
            loop {
                let n = body.read(&mut buffer).map_err(|e| HubError::Broken { url: url.into(), cause: e.to_string() })?;
                if n == 0 {
                    break;
                }
                out.write_all(&buffer[..n]).map_err(HubError::file(&partial, "write"))?;
                have += n as u64;
                progress(Progress::Bytes(have));
                if size.is_some_and(|size| have > size) {
                    break;
                }
            }
        }
        if let Some(size) = size.filter(|size| have < *size) {
            return Err(HubError::Broken { url: url.into(), cause: format!("{have} of {size} bytes came") });
        }
        out.sync_all().map_err(HubError::file(&partial, "sync"))?;
        let damage = |what, found: String, expected: String| {
            let _ = std::fs::remove_file(&partial);
            Err(HubError::Damaged { url: url.into(), what, found, expected })
        };
        if let Some(size) = size.filter(|size| *size != have) {
            return damage("the length", have.to_string(), size.to_string());
        }
        let found = hash(&mut out, etag, have).map_err(HubError::file(&partial, "read"))?;
        if let Some(found) = found.filter(|found| !found.eq_ignore_ascii_case(etag)) {
            return damage("the hash", found, etag.into());
        }
        std::fs::rename(&partial, blob).map_err(HubError::file(blob, "rename into"))
    }
}

/// The hash that an etag of this form is: SHA-256 for large files, git's SHA-1 of a blob for the others.
fn hash(file: &mut File, etag: &str, len: u64) -> std::io::Result<Option<String>> {
    let is_hex = etag.bytes().all(|b| b.is_ascii_hexdigit());
    file.seek(SeekFrom::Start(0))?;
    match (etag.len(), is_hex) {
        (64, true) => digest(Sha256::new(), file).map(Some),
        (40, true) => {
            let mut sha = Sha1::new();
            sha.update(format!("blob {len}\0").as_bytes());
            digest(sha, file).map(Some)
        }
        _ => Ok(None),
    }
}

fn digest<D: Digest>(mut state: D, file: &mut File) -> std::io::Result<String> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(state.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => state.update(&buffer[..n]),
        }
    }
}

/// A link from the snapshot to the blob; a copy where there are no links.
fn link(target: &str, blob: &Path, place: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let _ = blob;
        let made = std::os::unix::fs::symlink(target, place);
        match made {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && place.exists() => Ok(()), // another program was first
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                // A link to a blob that somebody removed.
                std::fs::remove_file(place)?;
                std::os::unix::fs::symlink(target, place)
            }
            other => other,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = target;
        std::fs::copy(blob, place).map(|_| ())
    }
}
