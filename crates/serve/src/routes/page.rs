//! The playground, and the logs of training runs that it draws.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderName, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::{App, query};
use crate::error::ApiError;
use crate::response;

/// The page loads nothing from elsewhere, and says so.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:";

pub(crate) async fn playground() -> Response {
    let headers = [(header::CACHE_CONTROL, "no-cache"), (HeaderName::from_static("content-security-policy"), POLICY)];
    (headers, Html(include_str!("../../assets/playground.html"))).into_response()
}

/// The log's file in a run's folder.
const LOG: &str = "log.jsonl";
/// Bytes of one part of a log.
const PART: u64 = 1 << 20;

pub(crate) async fn runs(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let names = blocking(move || Ok(names(&app))).await?;
    Ok(response::json(StatusCode::OK, &names.into_iter().map(|name| json!({"name": name})).collect::<Vec<_>>()))
}

/// Folders below `--runs` that hold a log.
fn names(app: &App) -> Vec<String> {
    let Some(folder) = &app.settings.runs else { return Vec::new() };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter(|entry| entry.path().join(LOG).is_file()).filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

#[derive(Debug, Deserialize)]
pub(crate) struct LogAddress {
    name: String,
    #[serde(default)]
    from: u64,
}

/// Events of a run from a byte on: at most a part, whole lines alone, and where the next part starts.
pub(crate) async fn log(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ApiError> {
    let address: LogAddress = query(&uri)?;
    let part = blocking(move || {
        // A name is served if it is one of the list: nothing that a client says becomes a part of a path otherwise.
        let known = names(&app);
        let (Some(name), Some(folder)) = (known.iter().find(|n| **n == address.name), &app.settings.runs) else {
            return Err(ApiError::Invalid {
                field: "name",
                problem: format!("there is no run {:?}; there are {}", address.name, known.join(", ")),
            });
        };
        let path: PathBuf = folder.join(name).join(LOG);
        let part = part(&path, address.from).map_err(|e| ApiError::Backend { problem: format!("the log of {name}: {e}") })?;
        response::bytes(&part)
    });
    Ok(response::written(StatusCode::OK, part.await?))
}

fn part(path: &Path, from: u64) -> std::io::Result<Value> {
    let mut file = std::fs::File::open(path)?;
    // A log that is shorter than what was read of it has been begun anew.
    let from = if file.metadata()?.len() < from { 0 } else { from };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(PART).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let lines = bytes[..whole].split(|&b| b == b'\n');
    let events: Vec<Value> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    Ok(json!({"next": from + whole as u64, "events": events}))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ApiError> + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(ApiError::Backend { problem: e.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_in_whole_lines_and_from_its_start_when_it_is_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG);
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"st").unwrap();
        assert_eq!(part(&path, 0).unwrap(), json!({"next": 22, "events": [{"step": 1}, {"step": 2}]}));
        assert_eq!(part(&path, 22).unwrap(), json!({"next": 22, "events": []}));
        std::fs::write(&path, "{\"step\":9}\n").unwrap();
        assert_eq!(part(&path, 22).unwrap(), json!({"next": 11, "events": [{"step": 9}]}));
    }
}
