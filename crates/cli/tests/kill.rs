//! The real program, killed at random moments of a pre-training: whatever was going on, it resumes, and in the end it has
//! done what an undisturbed run does, bit for bit.
#![cfg(unix)]

mod world;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cloze::tensor::random::{Key, Stream};
use world::{World, trace};

const STEPS: u64 = 700;
const KILLS: u32 = 20;

/// Read a run's events until `enough` says so; false when it ended before.
fn follow(child: &mut Child, mut enough: impl FnMut(&str) -> bool) -> bool {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    lines.any(|line| {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        enough(event["event"].as_str().unwrap())
    })
}

fn start(world: &World, resume: bool) -> Child {
    let mut command = world.command("pretrain recipe.toml --json --quiet");
    if resume {
        command.arg("--resume");
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn assert_same_run(world: &World) {
    let (expected, found) = (trace(&world.path("whole")), trace(&world.path("run")));
    assert_eq!(expected.iter().filter(|l| l.starts_with("step")).count(), STEPS as usize);
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
    let model = |out: &str| std::fs::read(world.path(out).join("model/model.safetensors")).unwrap();
    assert!(model("whole") == model("run"), "the models differ");
}

#[test]
fn twenty_kills_change_nothing() {
    let world = World::prepared();
    world.recipe(STEPS);
    world.run("pretrain recipe.toml --quiet --set out=whole").well();

    let mut moments = Vec::new();
    for kill in 0..KILLS {
        let key = Key::new(8, Stream::Sampling, 0, kill);
        let mut child = start(&world, kill > 0);
        // One in four dies before it has saved anything (not the first, which has nothing to go on from);
        // the others some steps after, inside a step or inside a checkpoint.
        let early = kill > 0 && key.below(0, 4) == 0;
        if !early {
            let mut steps = key.below(1, 12);
            let mut saved = false;
            let alive = follow(&mut child, |event| {
                saved |= event == "checkpoint";
                steps = steps.saturating_sub(u32::from(saved && event == "step"));
                saved && steps == 0
            });
            assert!(alive, "kill {kill}: the run is over before it could be killed");
        }
        let pause = Duration::from_micros(u64::from(key.below(2, if early { 60_000 } else { 5000 })));
        std::thread::sleep(pause);
        assert!(child.try_wait().unwrap().is_none(), "kill {kill}: the run ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let latest = cloze::train::checkpoint::latest_complete(&world.path("run/checkpoints")).unwrap();
        assert!(latest.skipped.is_empty(), "kill {kill}: {:?}", latest.skipped);
        moments.push(latest.checkpoint.expect("a checkpoint is there").step());
    }
    assert!(moments.is_sorted() && moments[KILLS as usize - 1] < STEPS, "{moments:?}");
    world.run("pretrain recipe.toml --quiet --resume").well();
    println!("checkpoints that the killed runs left: {moments:?}");
    assert_same_run(&world);
}

#[test]
fn a_signal_saves_first() {
    let world = World::prepared();
    world.recipe(STEPS);
    world.run("pretrain recipe.toml --quiet --set out=whole").well();

    for (resume, name, code) in [(false, "-TERM", 143), (true, "-INT", 130)] {
        let mut child = start(&world, resume);
        let mut steps = 0;
        let mut signalled = None;
        let (mut saved, mut finished) = (false, false);
        let id = child.id();
        follow(&mut child, |event| {
            steps += u32::from(event == "step");
            if steps == 20 && signalled.is_none() {
                let sent = std::process::Command::new("kill").args([name, &id.to_string()]).status().unwrap();
                assert!(sent.success());
                signalled = Some(Instant::now());
            }
            saved = event == "checkpoint" || saved && event != "step";
            finished |= event == "finished";
            false
        });
        assert_eq!(child.wait().unwrap().code(), Some(code), "{name}");
        assert!(signalled.unwrap().elapsed() < Duration::from_secs(10), "{name}: the run ends soon");
        assert!(saved && finished, "{name}: the last step was saved, and the end was told");
        assert!(!world.path("run/model").exists(), "{name}: an unfinished run leaves no model");
    }
    world.run("pretrain recipe.toml --quiet --resume").well();
    assert_same_run(&world);
}
