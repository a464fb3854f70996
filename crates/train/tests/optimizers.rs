//! Optimizers and learning rates against what PyTorch and the papers' formulas gave (fixtures/README.md).

use std::path::Path;

use cloze_cpu::{Cpu, CpuOptions, Level};
use cloze_model::files::safetensors::TensorFiles;
use cloze_tensor::ops::optimizer::{Adam, Group, Muon, Scale};
use cloze_tensor::plain::Plain;
use cloze_tensor::{Backend, Dtype, Param};
use cloze_train::schedule::Schedule;

const RATES: [f32; 5] = [0.01, 0.02, 0.03, 0.02, 0.01];
const NAMES: [&str; 4] = ["square", "tall", "wide", "bias"];

struct Fixture {
    files: TensorFiles,
}

impl Fixture {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/optimizers.safetensors");
        Self { files: TensorFiles::open(vec![path]).unwrap() }
    }

    fn read(&self, name: &str) -> Vec<f32> {
        self.files.read(name).unwrap().unwrap_or_else(|| panic!("no {name}")).1
    }

    /// The parameters at places of a flat buffer, with gaps between them.
    fn params(&self) -> (Vec<Param>, usize) {
        let mut offset = 16;
        let params = NAMES.map(|name| {
            let (shape, _) = self.files.read(&format!("initial.{name}")).unwrap().unwrap();
            let (rows, cols) = if shape.len() == 2 { (shape[0], shape[1]) } else { (1, shape[0]) };
            let param = Param { offset, rows, cols };
            offset = (offset + rows * cols).next_multiple_of(16) + 16;
            param
        });
        (params.into(), offset)
    }
}

#[derive(Clone, Copy)]
enum Rule {
    Adamw,
    Lamb,
    Muon,
}

struct Case {
    name: &'static str,
    rule: Rule,
    beta2: f32,
    eps: f32,
    decay: f32,
    clip: Option<f64>,
    /// Whether the vector has a trust ratio, and decays, as a matrix does.
    vectors_too: bool,
}

const CASES: [Case; 5] = [
    Case { name: "adamw", rule: Rule::Adamw, beta2: 0.999, eps: 1e-8, decay: 0.01, clip: None, vectors_too: false },
    Case { name: "adamw_clipped", rule: Rule::Adamw, beta2: 0.98, eps: 1e-6, decay: 0.1, clip: Some(1.0), vectors_too: false },
    Case { name: "lamb_all", rule: Rule::Lamb, beta2: 0.999, eps: 1e-6, decay: 0.01, clip: None, vectors_too: true },
    Case { name: "lamb_clipped", rule: Rule::Lamb, beta2: 0.999, eps: 1e-6, decay: 0.01, clip: Some(1.0), vectors_too: false },
    Case { name: "muon", rule: Rule::Muon, beta2: 0.999, eps: 1e-8, decay: 0.01, clip: None, vectors_too: false },
];

fn check<B: Backend>(who: &str, backend: &B) {
    let fixture = Fixture::open();
    let (params, len) = fixture.params();
    for case in CASES {
        let mut weights = backend.zeros(Dtype::F32, len);
        for (name, param) in NAMES.iter().zip(&params) {
            backend.write(&mut weights, param.offset, &fixture.read(&format!("initial.{name}")));
        }
        let (mut first, mut second) = (backend.zeros(Dtype::F32, len), backend.zeros(Dtype::F32, len));
        let group = |i: usize| {
            let weight_decay = if NAMES[i] == "bias" { 0.0 } else { case.decay };
            Group { range: params[i].range(), weight_decay, lr_scale: 1.0 }
        };
        for (step, &lr) in RATES.iter().enumerate() {
            let mut gradients = backend.zeros(Dtype::F32, len);
            for (name, param) in NAMES.iter().zip(&params) {
                backend.write(&mut gradients, param.offset, &fixture.read(&format!("grad.{step}.{name}")));
            }
            let norm = backend.sum_of_squares(&gradients, 0..len).sqrt();
            let mut gradient_scale = Scale::Known(1.0);
            if let Some(clip) = case.clip {
                let expected = f64::from(fixture.read(&format!("{}.grad_norm", case.name))[step]);
                assert!(
                    (norm - expected).abs() <= 1e-6 * expected,
                    "{who}: {}: the norm of step {step} is {norm}, not {expected}",
                    case.name
                );
                assert!(norm > clip || step > 0, "the first step is clipped");
                gradient_scale = Scale::Known((clip / norm).min(1.0) as f32);
            }
            let adam = Adam { lr, beta1: 0.9, beta2: case.beta2, eps: case.eps, step: step as u64 + 1, gradient_scale };
            match case.rule {
                Rule::Adamw => {
                    let groups: Vec<Group> = (0..4).map(group).collect();
                    backend.adamw(&adam, &groups, &mut weights, &gradients, &mut first, &mut second);
                }
                // A LAMB that spares vectors treats them by Adam without decay, as the authors' code does.
                Rule::Lamb => {
                    let adapted = if case.vectors_too { 4 } else { 3 };
                    let groups: Vec<Group> = (0..adapted).map(group).collect();
                    backend.lamb(&adam, &groups, &mut weights, &gradients, &mut first, &mut second);
                    let rest: Vec<Group> = (adapted..4).map(group).collect();
                    backend.adamw(&adam, &rest, &mut weights, &gradients, &mut first, &mut second);
                }
                Rule::Muon => {
                    let muon = Muon { lr, momentum: 0.95, weight_decay: case.decay, gradient_scale, products: Dtype::F32 };
                    backend.muon(&muon, &params[..3], &mut weights, &gradients, &mut first);
                    backend.adamw(&adam, &[group(3)], &mut weights, &gradients, &mut first, &mut second);
                }
            }
            for (name, param) in NAMES.iter().zip(&params) {
                if case.vectors_too && *name == "bias" {
                    continue; // the file's vector decays there, which ours never do
                }
                let (ours, expected) = (backend.read(&weights, param.range()), fixture.read(&format!("{}.{step}.{name}", case.name)));
                let largest = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                for (a, b) in ours.iter().zip(&expected) {
                    let error = (a - b).abs() / largest;
                    assert!(error < 2e-6, "{who}: {} step {step}, {name}: {a} instead of {b} (normalised error {error:.1e})", case.name);
                }
            }
        }
        let whole = backend.read(&weights, 0..len);
        let gap = |i: &usize| params.iter().all(|p| !p.range().contains(i));
        assert!((0..len).filter(gap).all(|i| whole[i] == 0.0), "{who}: {}: the gaps between parameters stay zero", case.name);
    }
}

#[test]
fn the_reference_steps_as_pytorch_does() {
    check("reference", &Plain);
}

#[test]
fn every_level_of_the_cpu_steps_as_pytorch_does() {
    for level in Level::available() {
        check(level.name(), &Cpu::new(CpuOptions { threads: Some(2), level: Some(level) }));
    }
}

/// The files count updates from 0 and warm up by (t + 1) / W; our factor is a function of the progress.
#[test]
fn learning_rates_are_the_formulas() {
    let fixture = Fixture::open();
    let shape = fixture.files.read_u32("schedule.shape").unwrap();
    let (total, warmup, decay) = (f64::from(shape[0]), u64::from(shape[1]), f64::from(shape[2]));
    let cases = [
        ("linear", format!("kind = 'linear'\nwarmup = {warmup}")),
        ("cosine", format!("kind = 'cosine'\nwarmup = {warmup}")),
        ("cosine_floor", format!("kind = 'cosine'\nwarmup = {warmup}\nfloor = 0.1")),
        ("warmup_stable_decay", format!("kind = 'warmup-stable-decay'\nwarmup = {warmup}\ndecay = {}", decay / total)),
        ("one_cycle", format!("kind = 'one-cycle'\nwarmup = {}", (warmup as f64 - 1.0) / (total - 1.0))),
    ];
    for (name, text) in cases {
        let schedule: Schedule = toml::from_str(&text).unwrap();
        for (t, &expected) in fixture.read(&format!("schedule.{name}")).iter().enumerate() {
            let step = if (t as u64) < warmup { t as u64 + 1 } else { t as u64 };
            let ours = match name {
                // the rise ends at update W − 1, the fall at the last
                "one_cycle" => schedule.factor(t as f64 / (total - 1.0), t as u64),
                _ => schedule.factor(step as f64 / total, step),
            };
            assert!((1e-3 * ours - f64::from(expected)).abs() < 1e-9, "{name} at update {t}: {} instead of {expected}", 1e-3 * ours);
        }
    }
}
