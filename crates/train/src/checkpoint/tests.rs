use super::manifest::{MANIFEST, Manifest};
use super::*;
use crate::files::{self, fault};
use std::fs;
use std::io::{self, Read};
use std::panic::Location;
use std::path::Path;

/// A folder in memory where there is one: these tests sync thousands of files.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap()
}

fn blob(step: u64, name: &str) -> Vec<u8> {
    let seed = step as usize * 31 + name.len();
    (0..3000 + seed % 700).map(|i| ((i * 7 + seed) % 251) as u8).collect()
}

fn save(checkpoints: &mut Checkpoints, step: u64) -> Result<SavedCheckpoint, CheckpointError> {
    checkpoints.save(step, "pretrain", |out| {
        for name in ["weights.bin", "optimizer.bin", "state.json"] {
            out.write(name, |file| file.write_all(&blob(step, name)))?;
        }
        out.write("empty", |_| Ok(()))
    })
}

#[track_caller]
fn is_whole(checkpoint: &Checkpoint) {
    let step = checkpoint.step();
    for name in ["weights.bin", "optimizer.bin", "state.json"] {
        assert!(checkpoint.read(name).unwrap() == blob(step, name), "{name} of step {step}, {}", Location::caller());
    }
    assert!(checkpoint.read("empty").unwrap().is_empty());
}

fn steps_of(folder: &Path) -> Vec<String> {
    let names = files::list(folder).unwrap().into_iter();
    names.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn what_was_written_comes_back() {
    let folder = scratch();
    let mut checkpoints = Checkpoints::open(&folder.path().join("new/run"), 3).unwrap();
    assert!(checkpoints.latest().unwrap().checkpoint.is_none());
    let saved = save(&mut checkpoints, 10).unwrap();
    let checkpoint = checkpoints.latest().unwrap().checkpoint.unwrap();
    is_whole(&checkpoint);
    assert_eq!((checkpoint.step(), checkpoint.kind(), checkpoint.bytes()), (10, "pretrain", saved.bytes));
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["weights.bin", "optimizer.bin", "state.json", "empty"]);
    assert_eq!(checkpoint.file("state.json").unwrap(), saved.path.join("state.json"));
    let error = checkpoint.read("moments").unwrap_err().to_string();
    assert!(error.contains("holds no \"moments\"; it holds weights.bin, "), "{error}");
}

#[test]
fn a_reader_of_exactly_the_size_notices_a_change() {
    let folder = scratch();
    let mut checkpoints = Checkpoints::open(folder.path(), 1).unwrap();
    save(&mut checkpoints, 1).unwrap();
    let checkpoint = checkpoints.get(1).unwrap();
    let path = checkpoint.file("weights.bin").unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[1500] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let mut into = vec![0; bytes.len()];
    let error = checkpoint.reader("weights.bin").unwrap().read_exact(&mut into).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(checkpoint.read("weights.bin").is_err());
    fs::write(&path, &bytes[..100]).unwrap();
    assert!(checkpoint.read("weights.bin").is_err());
}

#[test]
fn the_last_few_and_the_best_are_kept() {
    let folder = scratch();
    let mut checkpoints = Checkpoints::open(folder.path(), 2).unwrap();
    for step in [1, 2, 3, 4] {
        save(&mut checkpoints, step).unwrap();
        if step == 2 {
            checkpoints.mark_best(2).unwrap();
        }
    }
    assert_eq!(steps_of(folder.path()), ["best.json", "checkpoint-2", "checkpoint-3", "checkpoint-4"]);
    assert_eq!(checkpoints.best().unwrap(), Some(2));
    checkpoints.mark_best(4).unwrap();
    let saved = save(&mut checkpoints, 10).unwrap();
    assert_eq!(saved.removed, [2, 3]);
    assert_eq!(checkpoints.steps().unwrap(), [4, 10]);

    fs::write(folder.path().join("best.json"), "{").unwrap();
    let error = checkpoints.best().unwrap_err().to_string();
    assert!(error.contains("best.json") && error.contains("delete it"), "{error}");
    assert_eq!(save(&mut checkpoints, 11).unwrap().removed, [0u64; 0]);
}

#[test]
fn damaged_checkpoints_do_not_count_among_the_kept() {
    let folder = scratch();
    let mut checkpoints = Checkpoints::open(folder.path(), 2).unwrap();
    for step in [1, 2, 3] {
        save(&mut checkpoints, step).unwrap();
    }
    fs::remove_file(folder.path().join("checkpoint-3/weights.bin")).unwrap();
    let saved = save(&mut checkpoints, 4).unwrap();
    assert_eq!(saved.removed, [0u64; 0]);
    assert_eq!(checkpoints.steps().unwrap(), [2, 4]);
}

/// The story that is killed at every point: three checkpoints with one kept, the last of them written twice.
fn story(folder: &Path, done: &mut u64) -> Result<(), CheckpointError> {
    let mut checkpoints = Checkpoints::open(folder, 1)?;
    for step in [1, 2, 3, 3] {
        save(&mut checkpoints, step)?;
        *done = step;
    }
    checkpoints.mark_best(3)?;
    *done = 4;
    Ok(())
}

#[test]
fn killed_at_any_point_the_latest_is_whole() {
    let folder = scratch();
    let mut done = 0;
    let (result, changes) = fault::dying_after(usize::MAX, || story(folder.path(), &mut done));
    result.unwrap();
    assert!(changes.len() > 60, "{} changes", changes.len());
    for point in 0..changes.len() {
        let folder = scratch();
        let mut done = 0;
        let (result, _) = fault::dying_after(point, || story(folder.path(), &mut done));
        // a removal that fails is no failure of the save
        assert!(result.is_err() || done == 4, "dead after {point} changes");

        let latest = latest_complete(folder.path()).unwrap();
        assert!(latest.skipped.is_empty(), "dead after {point}: {:?}", latest.skipped);
        match latest.checkpoint {
            None => assert_eq!(done, 0, "dead after {point} changes"),
            Some(checkpoint) => {
                assert!(checkpoint.step() >= done.min(3), "dead after {point}: {} < {done}", checkpoint.step());
                is_whole(&checkpoint);
            }
        }

        // the next process clears up, goes on, and its checkpoint is the latest
        let mut checkpoints = Checkpoints::open(folder.path(), 1).unwrap();
        save(&mut checkpoints, 5).unwrap();
        let names: Vec<_> = steps_of(folder.path()).into_iter().filter(|name| name != "best.json").collect();
        let best = checkpoints.best().unwrap().is_some();
        assert!(names == ["checkpoint-5"] || best && names == ["checkpoint-3", "checkpoint-5"], "{point}: {names:?}");
        is_whole(&checkpoints.latest().unwrap().checkpoint.unwrap());
    }
}

#[test]
fn every_file_is_synced_before_the_marker_and_the_marker_before_the_rename() {
    let folder = scratch();
    let mut checkpoints = Checkpoints::open(folder.path(), 1).unwrap();
    let (_, changes) = fault::dying_after(usize::MAX, || save(&mut checkpoints, 7));
    let order: Vec<String> = changes
        .iter()
        .map(|(operation, path)| {
            let place = path.strip_prefix(folder.path()).unwrap().display().to_string();
            format!("{operation:?} {place}").trim().to_owned()
        })
        .collect();
    let mut expected = vec!["Create .partial-7".to_owned()];
    for name in ["weights.bin", "optimizer.bin", "state.json", "empty", "manifest.json"] {
        for operation in ["Create", "Write", "Sync"] {
            if (name, operation) != ("empty", "Write") {
                expected.push(format!("{operation} .partial-7/{name}"));
            }
        }
    }
    expected.extend(["Sync .partial-7", "Rename .partial-7", "Sync"].map(str::to_owned));
    assert_eq!(order, expected);
}

#[test]
fn no_mutant_loads_in_silence() {
    let folder = scratch();
    let mut checkpoints = Checkpoints::open(folder.path(), 2).unwrap();
    save(&mut checkpoints, 1).unwrap();
    save(&mut checkpoints, 2).unwrap();
    let second = folder.path().join("checkpoint-2");
    let mut mutants = 0;
    for path in files::list(&second).unwrap() {
        let good = fs::read(&path).unwrap();
        let is_manifest = path.ends_with("manifest.json");
        let flips = (0..good.len()).step_by(if is_manifest { 1 } else { 79 });
        let cuts = (0..good.len()).step_by(if is_manifest { 11 } else { 301 });
        let mutated = flips
            .flat_map(|at| (0..8).map(move |bit| (at, bit)))
            .map(|(at, bit)| {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                bytes
            })
            .chain(cuts.map(|cut| good[..cut].to_vec()))
            .chain([[&good[..], b"x"].concat()]);
        for bytes in mutated {
            fs::write(&path, &bytes).unwrap();
            let latest = checkpoints.latest().unwrap();
            let checkpoint = latest.checkpoint.unwrap();
            is_whole(&checkpoint);
            // blanks between the values of the manifest carry nothing
            let same = is_manifest && serde_json::from_slice::<Manifest>(&bytes).ok() == serde_json::from_slice(&good).ok();
            assert_eq!(checkpoint.step(), if same { 2 } else { 1 });
            assert_eq!(latest.skipped.len(), usize::from(!same));
            mutants += 1;
        }
        fs::remove_file(&path).unwrap();
        let latest = checkpoints.latest().unwrap();
        assert_eq!(latest.checkpoint.unwrap().step(), 1);
        let told = latest.skipped[0].to_string();
        assert!(told.contains("checkpoint-2 cannot be loaded") && told.contains("missing"), "{told}");
        fs::write(&path, &good).unwrap();
    }
    assert!(mutants > 5000, "{mutants} mutants");
    assert_eq!(checkpoints.latest().unwrap().checkpoint.unwrap().step(), 2);
}

#[test]
fn damage_is_told_by_its_name() {
    let folder = scratch();
    let mut checkpoints = Checkpoints::open(folder.path(), 9).unwrap();
    let step = |checkpoints: &mut Checkpoints, step| save(checkpoints, step).unwrap().path;
    let told = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();

    let path = step(&mut checkpoints, 1);
    fs::write(path.join("state.json"), "short").unwrap();
    assert!(told(&path).contains("state.json has 5 bytes instead of "), "{}", told(&path));

    let path = step(&mut checkpoints, 2);
    let mut bytes = fs::read(path.join("weights.bin")).unwrap();
    bytes[9] ^= 1;
    fs::write(path.join("weights.bin"), bytes).unwrap();
    assert!(told(&path).contains("checksum of weights.bin does not match"), "{}", told(&path));

    let path = step(&mut checkpoints, 3);
    let moved = folder.path().join("checkpoint-33");
    fs::rename(path, &moved).unwrap();
    assert!(told(&moved).contains("folder says step 33, its manifest says 3"), "{}", told(&moved));

    let path = step(&mut checkpoints, 4);
    let text = fs::read_to_string(path.join(MANIFEST)).unwrap();
    let later = text.replace("\"version\": 1", "\"version\": 2").replace("\"kind\"", "\"purpose\"");
    fs::write(path.join(MANIFEST), later).unwrap();
    assert!(told(&path).contains("use a newer Cloze"), "{}", told(&path));

    let other = text.replace("cloze-checkpoint", "other");
    fs::write(path.join(MANIFEST), other).unwrap();
    assert!(told(&path).contains("its format is \"other\""), "{}", told(&path));

    // a manifest that reaches outside, correctly sealed
    let mut manifest: Manifest = serde_json::from_str(&text).unwrap();
    manifest.files[0].name = "../checkpoint-2/weights.bin".to_owned();
    fs::write(path.join(MANIFEST), serde_json::to_vec(&manifest.sealed()).unwrap()).unwrap();
    assert!(told(&path).contains("weights.bin\": it begins with a dot"), "{}", told(&path));
}

#[test]
fn names_are_plain_and_single() {
    let folder = scratch();
    let mut checkpoints = Checkpoints::open(folder.path(), 1).unwrap();
    for name in ["", "..", "a/b", "manifest.json", ".hidden", "a\0b", "é"] {
        let error = checkpoints.save(1, "x", |out| out.write(name, |_| Ok(()))).unwrap_err();
        assert!(matches!(error, CheckpointError::Name { .. }), "{name:?}: {error}");
    }
    let twice = checkpoints.save(1, "x", |out| {
        out.write("State", |_| Ok(()))?;
        out.write("state", |_| Ok(()))
    });
    assert!(matches!(twice.unwrap_err(), CheckpointError::Name { .. }));
    assert!(steps_of(folder.path()).is_empty(), "a failed save leaves nothing");
}

#[test]
fn any_single_failure_of_the_disk_leaves_the_old_checkpoint_and_a_clear_error() {
    for change in 0..100 {
        let folder = scratch();
        let mut checkpoints = Checkpoints::open(folder.path(), 1).unwrap();
        save(&mut checkpoints, 1).unwrap();
        let failing = || save(&mut checkpoints, 2);
        match fault::failing_after(change, io::ErrorKind::StorageFull, failing) {
            Err(error) => {
                let told = error.to_string();
                assert!(told.contains("the disk is full: free some space"), "{told}");
                assert!(told.contains("checkpoint-1, is intact"), "{told}");
                assert!(told.contains("it needs about 9.1 kB"), "{told}");
                let latest = checkpoints.latest().unwrap();
                assert!(latest.skipped.is_empty());
                is_whole(&latest.checkpoint.unwrap());
                assert!(!steps_of(folder.path()).contains(&".partial-2".to_owned()), "the space is given back");
            }
            Ok(saved) => {
                assert!(change > 10);
                if saved.not_removed.is_none() {
                    return;
                }
            }
        }
    }
    panic!("a save needs fewer than 100 changes");
}

/// A disk that is really full, where the machine lets us make one.
#[test]
#[cfg(target_os = "linux")]
fn a_small_disk_runs_full() {
    let folder = scratch();
    let mount = |arguments: &[&str]| {
        let run = std::process::Command::new("mount").args(arguments).arg(folder.path()).output();
        run.is_ok_and(|output| output.status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    }
    let large = |checkpoints: &mut Checkpoints, step, bytes: usize| {
        checkpoints.save(step, "pretrain", |out| {
            out.write("weights.bin", |file| (0..bytes / 1000).try_for_each(|_| file.write_all(&[step as u8; 1000])))
        })
    };
    let outcome = std::panic::catch_unwind(|| {
        let mut checkpoints = Checkpoints::open(folder.path(), 1).unwrap();
        large(&mut checkpoints, 1, 600_000).unwrap();
        let error = large(&mut checkpoints, 2, 600_000).unwrap_err().to_string();
        assert!(error.contains("the disk is full") && error.contains("needs about 600 kB"), "{error}");
        assert!(error.contains("checkpoint-1, is intact"), "{error}");
        let latest = checkpoints.latest().unwrap();
        assert!(latest.skipped.is_empty());
        assert_eq!(latest.checkpoint.unwrap().read("weights.bin").unwrap(), vec![1; 600_000]);
        // with room again the next one succeeds
        large(&mut checkpoints, 3, 200_000).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [3]);
    });
    let unmounted = std::process::Command::new("umount").arg(folder.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
