//! Files that are there whole or not at all: written beside their place, synced, renamed into it.
//!
//! The order is the one that survives a crash at any point: write → fsync the file → rename → fsync the
//! folder. Before the rename the old content stands, after it the new one.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

/// What was being done to a file when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Making a file or folder.
    Create,
    /// Writing into a file.
    Write,
    /// Bringing it to the disk.
    Sync,
    /// Moving it to its place.
    Rename,
    /// Deleting it.
    Remove,
    /// Reading it.
    Read,
    /// Listing a folder.
    List,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Write => "write",
            Self::Sync => "sync to disk",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::Read => "read",
            Self::List => "list",
        })
    }
}

/// A file operation that failed, or a path that may not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}{}", path.display(), Hint(hint))]
    Io {
        /// What was being done.
        operation: Operation,
        /// To which file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
        /// What to do, and what is left as it was.
        hint: Option<String>,
    },
    /// A path from a file or request that leaves its folder.
    #[error("path {found:?} is refused: {reason}; it must stay inside {}", root.display())]
    UnsafePath {
        /// The folder it must stay in.
        root: PathBuf,
        /// The path as found.
        found: String,
        /// Why it is refused.
        reason: &'static str,
    },
}

struct Hint<'a>(&'a Option<String>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl FileError {
    /// The error of `operation` on `path`, with the hint that its cause deserves.
    pub fn io(operation: Operation, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::StorageFull => Some("the disk is full: free some space and run again"),
            io::ErrorKind::QuotaExceeded => Some("the disk quota is used up: free some space and run again"),
            io::ErrorKind::ReadOnlyFilesystem => Some("the file system is read-only: choose another folder"),
            io::ErrorKind::PermissionDenied => Some("check the owner and the mode of the folder"),
            _ => None,
        };
        Self::Io { operation, path: path.into(), source, hint: hint.map(str::to_owned) }
    }

    /// Whether the disk or the quota is full.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }

    /// Adds to the hint.
    pub(crate) fn and(mut self, more: &str) -> Self {
        if let Self::Io { hint, .. } = &mut self {
            *hint = Some(match hint.take() {
                Some(hint) => format!("{hint}; {more}"),
                None => more.to_owned(),
            });
        }
        self
    }
}

/// Every change to the disk passes here, so that a test can stop the world between any two of them.
fn act<T>(operation: Operation, path: &Path, change: impl FnOnce() -> io::Result<T>) -> Result<T, FileError> {
    fault::gate(operation, path).and_then(|()| change()).map_err(|source| FileError::io(operation, path, source))
}

/// Makes a folder and its parents.
pub fn create_folder(path: &Path) -> Result<(), FileError> {
    act(Operation::Create, path, || fs::create_dir_all(path))
}

/// Makes a rename or a new file in `folder` last through a power cut.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    // Only Unix lets a folder be opened and synced; elsewhere the rename itself is what there is.
    if cfg!(unix) { act(Operation::Sync, folder, || File::open(folder)?.sync_all()) } else { Ok(()) }
}

/// Renames without syncing: call [`sync_folder`] on the parent afterwards.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    act(Operation::Rename, from, || fs::rename(from, to))
}

/// Removes a file, or a folder with all that is in it; nothing there is no error. Links are not followed.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.is_dir() {
        return act(Operation::Remove, path, || fs::remove_file(path));
    }
    for entry in list(path)? {
        remove(&entry)?;
    }
    act(Operation::Remove, path, || fs::remove_dir(path))
}

/// The entries of a folder, sorted by name.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let error = |source| FileError::io(Operation::List, folder, source);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        paths.push(entry.map_err(error)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// A new file that is written through a buffer and brought to the disk by [`SyncedFile::finish`].
pub(crate) struct SyncedFile {
    path: PathBuf,
    buffer: BufWriter<GatedFile>,
}

impl SyncedFile {
    pub(crate) fn create(path: &Path) -> Result<Self, FileError> {
        let file = act(Operation::Create, path, || File::create(path))?;
        let buffer = BufWriter::with_capacity(1 << 20, GatedFile { file, path: path.to_owned() });
        Ok(Self { path: path.to_owned(), buffer })
    }

    pub(crate) fn finish(mut self) -> Result<(), FileError> {
        self.buffer.flush().map_err(|source| FileError::io(Operation::Write, &self.path, source))?;
        act(Operation::Sync, &self.path, || self.buffer.get_ref().file.sync_all())
    }

    /// Gives the file up without writing what is still in the buffer.
    pub(crate) fn abandon(self) {
        let _ = self.buffer.into_parts();
    }
}

impl Write for SyncedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer.flush()
    }
}

struct GatedFile {
    file: File,
    path: PathBuf,
}

impl Write for GatedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = fault::gate(Operation::Write, &self.path) {
            // a process that dies in a write leaves a part of it
            if fault::just_died() {
                self.file.write_all(&bytes[..bytes.len() / 2])?;
            }
            return Err(error);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The name beside `path` under which its next content is written.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{ending}"))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Replaces the content of `path`, or makes it: after a crash at any point it holds the old content whole or
/// the new content whole.
///
/// # Errors
/// When the writer fails or the disk does; what was at `path` before is then untouched.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("metrics.json");
/// cloze_train::files::replace_file(&path, |out| out.write_all(b"{}")).unwrap();
/// assert_eq!(std::fs::read(&path).unwrap(), b"{}");
/// ```
pub fn replace_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), FileError> {
    let partial = beside(path, "partial");
    let attempt = || {
        let mut file = SyncedFile::create(&partial)?;
        if let Err(source) = write(&mut file) {
            file.abandon();
            return Err(FileError::io(Operation::Write, path, source));
        }
        file.finish()?;
        rename(&partial, path)?;
        sync_folder(parent_of(path))
    };
    attempt().map_err(|error| {
        let _ = remove(&partial);
        if path.exists() { error.and(&format!("{} is as it was before", path.display())) } else { error }
    })
}

/// Replaces a whole folder, or makes it: `write` fills an empty folder beside it, every file in it is synced,
/// and it takes the place of the old one, which is then removed.
///
/// A crash between the two renames leaves the old folder under its waiting name; [`recover_folder`] (which
/// this function calls first) brings it back.
///
/// # Errors
/// Those of `write`, and [`FileError`] when the disk fails; the old folder is then untouched.
pub fn replace_folder<E: From<FileError>>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    recover_folder(path)?;
    let partial = beside(path, "partial");
    let old = beside(path, "old");
    remove(&partial)?;
    remove(&old)?;
    create_folder(&partial)?;
    let filled = write(&partial).and_then(|()| Ok(sync_tree(&partial)?));
    if let Err(error) = filled {
        let _ = remove(&partial);
        return Err(error);
    }
    if path.exists() {
        rename(path, &old)?;
    }
    rename(&partial, path)?;
    sync_folder(parent_of(path))?;
    Ok(remove(&old)?)
}

/// Brings back a folder whose replacement was cut off between its two renames.
///
/// # Errors
/// When the rename fails.
pub fn recover_folder(path: &Path) -> Result<(), FileError> {
    let old = beside(path, "old");
    if !path.exists() && old.exists() {
        rename(&old, path)?;
        sync_folder(parent_of(path))?;
    }
    Ok(())
}

fn sync_tree(folder: &Path) -> Result<(), FileError> {
    for path in list(folder)? {
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            act(Operation::Sync, &path, || File::open(&path)?.sync_all())?;
        }
    }
    sync_folder(folder)
}

/// Joins a path that came from outside to the folder it must stay in: empty, absolute, `..`, NUL, backslash
/// and links that lead out are refused.
///
/// # Errors
/// [`FileError::UnsafePath`] with the reason.
pub fn safe_join(root: &Path, relative: &str) -> Result<PathBuf, FileError> {
    let refuse = |reason| FileError::UnsafePath { root: root.to_owned(), found: relative.to_owned(), reason };
    if relative.is_empty() {
        return Err(refuse("it is empty"));
    }
    if relative.contains('\0') {
        return Err(refuse("it holds a NUL character"));
    }
    if relative.contains('\\') {
        return Err(refuse("it holds a backslash"));
    }
    let mut joined = root.to_owned();
    for component in Path::new(relative).components() {
        match component {
            Component::Normal(part) => joined.push(part),
            Component::CurDir => {}
            Component::ParentDir => return Err(refuse("it goes up with \"..\"")),
            Component::RootDir | Component::Prefix(_) => return Err(refuse("it is absolute")),
        }
    }
    if joined == root {
        return Err(refuse("it names the folder itself"));
    }
    // The deepest part that exists decides: what lies below it cannot be a link.
    let real_root = fs::canonicalize(root).map_err(|source| FileError::io(Operation::Read, root, source))?;
    for ancestor in joined.ancestors().take_while(|ancestor| *ancestor != root) {
        if fs::symlink_metadata(ancestor).is_err() {
            continue;
        }
        let real = fs::canonicalize(ancestor).map_err(|source| FileError::io(Operation::Read, ancestor, source))?;
        if !real.starts_with(&real_root) {
            return Err(refuse("a link in it leads out of the folder"));
        }
        break;
    }
    Ok(joined)
}

#[cfg(not(test))]
mod fault {
    use super::{Operation, Path, io};

    pub(super) fn gate(_: Operation, _: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn just_died() -> bool {
        false
    }
}

/// Stops the world at a chosen change to the disk: from then on every change fails, as if the process were
/// dead, clean-up included.
#[cfg(test)]
pub(crate) mod fault {
    use super::{Operation, Path, PathBuf, io};
    use std::cell::RefCell;

    #[derive(Default)]
    struct Plan {
        left: Option<usize>,
        died_now: bool,
        error: Option<io::ErrorKind>,
        trace: Vec<(Operation, PathBuf)>,
    }

    thread_local! {
        static PLAN: RefCell<Plan> = RefCell::default();
    }

    /// Runs `work`, dead after `changes` changes to the disk, and tells all changes that were made.
    pub(crate) fn dying_after<T>(changes: usize, work: impl FnOnce() -> T) -> (T, Vec<(Operation, PathBuf)>) {
        PLAN.set(Plan { left: Some(changes), ..Plan::default() });
        let result = work();
        (result, PLAN.take().trace)
    }

    /// Runs `work` with the change after `changes` others failing once with `error`, as a full disk does.
    pub(crate) fn failing_after<T>(changes: usize, error: io::ErrorKind, work: impl FnOnce() -> T) -> T {
        PLAN.set(Plan { left: Some(changes), error: Some(error), ..Plan::default() });
        let result = work();
        PLAN.take();
        result
    }

    pub(super) fn gate(operation: Operation, path: &Path) -> io::Result<()> {
        PLAN.with_borrow_mut(|plan| {
            plan.died_now = false;
            match plan.left {
                Some(0) => match plan.error {
                    None => Err(io::Error::other("the process is dead")),
                    Some(kind) => {
                        plan.left = None;
                        plan.died_now = true;
                        Err(kind.into())
                    }
                },
                Some(left) => {
                    plan.left = Some(left - 1);
                    plan.died_now = left == 1 && operation == Operation::Write && plan.error.is_none();
                    if plan.died_now {
                        return Err(io::Error::other("the process died in a write"));
                    }
                    plan.trace.push((operation, path.to_owned()));
                    Ok(())
                }
                None => Ok(()),
            }
        })
    }

    pub(super) fn just_died() -> bool {
        PLAN.with_borrow(|plan| plan.died_now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_old_or_new_at_every_point() {
        let (_, changes) = fault::dying_after(usize::MAX, || write_over(&tempfile::tempdir().unwrap()));
        let kinds: Vec<_> = changes.iter().map(|(operation, _)| *operation).collect();
        use Operation::{Create, Rename, Sync, Write};
        assert_eq!(kinds, [Create, Write, Sync, Rename, Sync]);
        for point in 0..=changes.len() {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("file"), "old").unwrap();
            let (result, _) = fault::dying_after(point, || write_over(&folder));
            let content = fs::read_to_string(folder.path().join("file")).unwrap();
            assert_eq!(content, if point < 4 { "old" } else { "new" }, "dead after {point} changes");
            assert_eq!(result.is_ok(), point == changes.len());
            write_over(&folder).unwrap();
            assert_eq!(names(folder.path()), ["file"], "a leftover is cleared by the next write");
        }
    }

    fn write_over(folder: &tempfile::TempDir) -> Result<(), FileError> {
        replace_file(&folder.path().join("file"), |out| out.write_all(b"new"))
    }

    fn names(folder: &Path) -> Vec<String> {
        list(folder).unwrap().iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_folder_is_old_or_new_at_every_point() {
        let fill = |folder: &Path| {
            for name in ["a", "b"] {
                let path = folder.join(name);
                fs::write(&path, "new").map_err(|source| FileError::io(Operation::Write, path, source))?;
            }
            Ok::<(), FileError>(())
        };
        for point in 0..40 {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("model");
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("a"), "old").unwrap();
            let (result, _) = fault::dying_after(point, || replace_folder(&folder, fill));
            recover_folder(&folder).unwrap();
            let found = (names(&folder), fs::read_to_string(folder.join("a")).unwrap());
            let old = (vec!["a".to_owned()], "old".to_owned());
            let new = (vec!["a".to_owned(), "b".to_owned()], "new".to_owned());
            assert!(found == old || found == new, "dead after {point} changes: {found:?}");
            if result.is_ok() {
                assert_eq!(found, new);
                assert!(point > 8, "more than {point} changes are needed");
            }
            replace_folder(&folder, fill).unwrap();
            assert_eq!(names(root.path()), ["model"]);
        }
    }

    #[test]
    fn a_failing_writer_leaves_the_old_file_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let error = replace_file(&path, |out| {
            out.write_all(b"part")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.is_disk_full());
        let text = error.to_string();
        assert!(text.starts_with("cannot write ") && text.contains("free some space"), "{text}");
        assert!(text.ends_with("is as it was before"), "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn paths_from_outside_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("inner")).unwrap();
        fs::write(folder.path().join("secret"), "x").unwrap();
        for good in ["a", "a/b.txt", "./a", "inner/new", "inner", "…", "..a", "a..b"] {
            let path = safe_join(&root, good).unwrap();
            assert!(path.starts_with(&root) && path != root, "{good}");
        }
        for bad in ["", ".", "..", "../secret", "a/../../secret", "/etc/passwd", "a\0b", "a\\b", "inner/..", "//x"] {
            let error = safe_join(&root, bad).unwrap_err();
            assert!(matches!(error, FileError::UnsafePath { .. }), "{bad:?}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(folder.path(), root.join("out")).unwrap();
            std::os::unix::fs::symlink(root.join("inner"), root.join("in")).unwrap();
            assert!(safe_join(&root, "in/file").is_ok());
            for bad in ["out", "out/secret", "out/new/deep"] {
                let error = safe_join(&root, bad).unwrap_err().to_string();
                assert!(error.contains("a link in it leads out"), "{error}");
            }
        }
    }
}
