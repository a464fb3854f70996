//! The one way from a path that stands in a file to a path on the disk.

use std::path::{Component, Path, PathBuf};

use crate::error::ModelError;

/// `folder` joined with `target`, a relative path that `file` gives for `name`.
///
/// Refused are empty and absolute paths, `..`, drive letters, backslashes, NUL, and links that lead out of the folder. A snapshot of the hub's cache
/// is made of links into its own repository's `blobs`: there the repository is the boundary.
///
/// # Errors
/// [`ModelError::Escapes`], which says what points where. A target that does not exist is no error here.
pub fn safe_join(folder: &Path, target: &str, file: &Path, name: &str) -> Result<PathBuf, ModelError> {
    let refused = || ModelError::Escapes { path: file.to_owned(), name: brief(name), target: brief(target) };
    if target.is_empty() || target.contains(['\\', '\0', ':']) {
        return Err(refused());
    }
    if !Path::new(target).components().all(|c| matches!(c, Component::Normal(_))) {
        return Err(refused());
    }
    let joined = folder.join(target);
    if let (Ok(root), Ok(real)) = (folder.canonicalize(), joined.canonicalize())
        && !real.starts_with(boundary(&root))
    {
        return Err(refused());
    }
    Ok(joined)
}

/// What links of a folder may not leave.
fn boundary(root: &Path) -> &Path {
    match root.parent() {
        Some(parent) if parent.file_name().is_some_and(|n| n == "snapshots") => parent.parent().unwrap_or(root),
        _ => root,
    }
}

/// At most 80 characters of a text from a file.
fn brief(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let join = |target: &str| safe_join(folder.path(), target, Path::new("index.json"), "a");
        for target in ["", "/etc/passwd", "../a", "a/../../b", "..", ".", "./a", "a\\b", "c:a", "a\0b"] {
            let error = join(target).expect_err(target).to_string();
            assert!(error.contains("index.json") && error.contains("outside of the folder"), "{target:?}: {error}");
        }
        assert_eq!(join("2_Dense/model.safetensors").unwrap(), folder.path().join("2_Dense/model.safetensors"));
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_inside_save_in_the_hub_cache() {
        use std::os::unix::fs::symlink;
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("model");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(outer.path().join("secret"), "s").unwrap();
        symlink(outer.path().join("secret"), folder.join("weights")).unwrap();
        assert!(safe_join(&folder, "weights", Path::new("index.json"), "a").is_err());

        let snapshot = outer.path().join("models--a--b/snapshots/123");
        let blobs = outer.path().join("models--a--b/blobs");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join("x"), "s").unwrap();
        symlink("../../blobs/x", snapshot.join("weights")).unwrap();
        assert!(safe_join(&snapshot, "weights", Path::new("index.json"), "a").is_ok());
        symlink(outer.path().join("secret"), snapshot.join("other")).unwrap();
        assert!(safe_join(&snapshot, "other", Path::new("index.json"), "a").is_err());
    }
}
