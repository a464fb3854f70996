//! A real process is killed while it writes checkpoints: what is left must always load, and be the newest that
//! the process said was safe.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cloze_train::checkpoint::{Checkpoints, latest_complete};

const FOLDER: &str = "CLOZE_TEST_CHECKPOINT_FOLDER";
const FILES: [&str; 3] = ["parameters.bin", "moments.bin", "state.json"];

fn content(step: u64, name: &str) -> Vec<u8> {
    let key = step * 31 + name.len() as u64;
    (0..200_000 + key % 1000).map(|place| (place * 7 + key) as u8).collect()
}

/// Writes checkpoints until it is killed, and says each one that is safe.
fn write_forever(folder: &Path) {
    let mut checkpoints = Checkpoints::open(folder, 2).unwrap();
    let first = checkpoints.latest().unwrap().checkpoint.map_or(0, |checkpoint| checkpoint.step()) + 1;
    for step in first.. {
        let write = |out: &mut cloze_train::checkpoint::CheckpointWriter| {
            FILES.iter().try_for_each(|name| out.write(name, |file| file.write_all(&content(step, name))))
        };
        checkpoints.save(step, "test", write).unwrap();
        println!("\nsafe {step}");
    }
}

#[test]
fn twenty_kills_leave_twenty_checkpoints_that_load() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        write_forever(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut safe = 0;
    for kill in 0..20u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "twenty_kills_leave_twenty_checkpoints_that_load", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut steps = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("safe ")?.parse::<u64>().ok());
        // at least one more is written, then it dies at some moment of the next
        safe = steps.next().expect("the process writes checkpoints");
        std::thread::sleep(Duration::from_micros(kill * 7919 % 23_000));
        child.kill().unwrap();
        child.wait().unwrap();
        safe = steps.last().unwrap_or(safe);

        let latest = latest_complete(folder.path()).unwrap();
        assert!(latest.skipped.is_empty(), "kill {kill}: {:?}", latest.skipped);
        let checkpoint = latest.checkpoint.expect("a checkpoint is there");
        assert!(checkpoint.step() >= safe, "kill {kill}: step {} was safe, {} is found", safe, checkpoint.step());
        for name in FILES {
            assert!(checkpoint.read(name).unwrap() == content(checkpoint.step(), name), "kill {kill}: {name}");
        }
    }
    assert!(safe >= 20, "{safe} checkpoints in all");
}
