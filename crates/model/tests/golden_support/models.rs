//! Tiny models against what PyTorch and transformers say about them, on any backend: hidden states of every layer, logits, losses, every
//! gradient, ten losses of training.

use cloze_model::files::safetensors::TensorFiles;
use cloze_model::params::{Role, Spec};
use cloze_model::registry::family;
use cloze_model::{Input, Loaded, load};
use cloze_tensor::ops::optimizer::{Adam, Group, Scale};
use cloze_tensor::{Backend, Dtype, Sequences, Tape, Weights};

use super::golden_support::{close, fixture};

/// A model of fixtures/ with the values expected of it.
pub(crate) struct Golden {
    loaded: Loaded,
    files: TensorFiles,
}

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        let files = TensorFiles::open(vec![fixture(name).join("golden.safetensors")]).unwrap();
        Self { loaded: load(&fixture(name)).unwrap(), files }
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.files.read(name).unwrap().unwrap_or_else(|| panic!("no {name}")).1
    }

    fn u32(&self, name: &str) -> Vec<u32> {
        self.files.read_u32(name).unwrap_or_else(|| panic!("no {name}"))
    }

    fn input<B: Backend>(&self, backend: &B) -> Input<B> {
        let starts = self.u32("starts");
        let sequences = Sequences::from_lengths(starts.windows(2).map(|w| (w[1] - w[0]) as usize));
        Input::new(backend, &self.u32("input_ids"), &self.u32("token_type_ids"), sequences)
    }

    /// The golden tensor(s) `{kind}.{tensor name}` of one of our parameters, parts joined; `None` where there is none.
    fn of_param(&self, kind: &str, spec: &Spec) -> Option<Vec<f32>> {
        let family = family(self.loaded.model.family).unwrap();
        let mut all = Vec::new();
        for part in (family.names)(spec, &self.loaded.model.blueprint) {
            all.extend(self.files.read(&format!("{kind}.{}", part.name)).unwrap()?.1);
        }
        Some(all)
    }
}

/// A fused bias holds the key's, whose true gradient is 0: noise that is compared by absolute error.
fn compare_gradients<B: Backend>(g: &Golden, backend: &B, gradients: &B::Buffer, bound: f32) {
    let h = g.loaded.model.blueprint.hidden_size;
    for spec in g.loaded.model.table().specs() {
        let mut ours = backend.read(gradients, spec.param.range());
        let Some(mut expected) = g.of_param("grad", spec) else { continue };
        if spec.name.ends_with("qkv.bias") {
            assert!(ours[h..2 * h].iter().all(|v| v.abs() < 1e-5), "{}: the key's bias has a gradient", spec.name);
            ours[h..2 * h].fill(0.0);
            expected[h..2 * h].fill(0.0);
        }
        close(&format!("gradient of {}", spec.name), &ours, &expected, bound);
    }
}

/// Hidden states of all layers, and every head's logits.
pub(crate) fn hidden_states<B: Backend>(g: &Golden, backend: &B, dtype: Dtype, bound: f32) {
    let model = &g.loaded.model;
    let weights = model.frozen(backend, &g.loaded.values, dtype);
    let mut tape = Tape::inference(backend, &weights, dtype);
    let input = g.input(backend);
    let states = model.body().hidden_states(&mut tape, &input);
    assert_eq!(states.len(), model.blueprint.num_hidden_layers + 1);
    for (i, state) in states.iter().enumerate() {
        close(&format!("hidden state {i}"), &state.to_host(backend), &g.f32(&format!("hidden.{i}")), bound);
    }
    let hidden = &states[states.len() - 1];
    if let Some(head) = model.masked_lm() {
        close("mlm logits", &head.logits(&mut tape, hidden).to_host(backend), &g.f32("mlm_logits"), bound);
    }
    if let Some(pooled) = model.pooled(&mut tape, hidden, &input) {
        close("pooled", &pooled.to_host(backend), &g.f32("pooled"), bound);
        if let Some(head) = model.next_sentence() {
            close("nsp logits", &head.logits(&mut tape, &pooled).to_host(backend), &g.f32("nsp_logits"), bound);
        }
        if let Some(head) = model.classifier() {
            close("classifier logits", &head.logits(&mut tape, &pooled).to_host(backend), &g.f32("logits"), bound);
        }
    }
}

/// One pass of the pre-training losses: (mlm + nsp) with gradients added to `gradients`.
fn pretraining_loss<B: Backend>(g: &Golden, backend: &B, weights: &Weights<B>, gradients: &mut B::Buffer, recompute: bool) -> f32 {
    let model = &g.loaded.model;
    let input = g.input(backend);
    let (rows, labels) = (g.u32("masked_rows"), g.u32("masked_labels"));
    let (m, s) = (rows.len(), input.layout.sequences.count());
    let mut tape = Tape::training(backend, weights, Dtype::F32, gradients, None);
    let hidden = model.hidden(&mut tape, &input, recompute);
    let selected = tape.gather(&hidden, &backend.indices(&rows), m);
    let losses = model.masked_lm().unwrap().loss(&mut tape, &selected, &backend.indices(&labels), 1.0 / m as f32);
    let mean = |losses: Vec<f32>, n: usize| losses.chunks(2).map(|row| row[0]).sum::<f32>() / n as f32;
    let mut loss = mean(losses.to_host(backend), m);
    if let Some(head) = model.next_sentence() {
        let pooled = model.pooled(&mut tape, &hidden, &input).unwrap();
        let labels = backend.indices(&g.u32("nsp_labels"));
        loss += mean(head.loss(&mut tape, &pooled, &labels, 1.0 / s as f32).to_host(backend), s);
    }
    tape.backward();
    loss
}

fn gradients<B: Backend>(g: &Golden, backend: &B, loss_name: &str, bound: f32) {
    let weights = Weights::from_host(backend, &g.loaded.values);
    for recompute in [false, true] {
        let mut gradients = backend.zeros(Dtype::F32, weights.len());
        let loss = pretraining_loss(g, backend, &weights, &mut gradients, recompute);
        close("loss", &[loss], &g.f32(loss_name), 1e-5);
        compare_gradients(g, backend, &gradients, bound);
    }
}

fn ten_steps<B: Backend>(g: &Golden, backend: &B, bound: f32) {
    let table = g.loaded.model.table();
    let mut weights = Weights::from_host(backend, &g.loaded.values);
    let len = weights.len();
    let (mut first, mut second) = (backend.zeros(Dtype::F32, len), backend.zeros(Dtype::F32, len));
    let decay = |spec: &Spec| if spec.role == Role::Vector { 0.0 } else { 0.01 };
    let groups: Vec<Group> =
        table.specs().iter().map(|s| Group { range: s.param.range(), weight_decay: decay(s), lr_scale: 1.0 }).collect();
    let mut losses = Vec::new();
    for step in 1..=10 {
        let mut gradients = backend.zeros(Dtype::F32, len);
        losses.push(pretraining_loss(g, backend, &weights, &mut gradients, false));
        let op = Adam { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, step, gradient_scale: Scale::Known(1.0) };
        backend.adamw(&op, &groups, weights.flat_mut(), &gradients, &mut first, &mut second);
    }
    close("ten losses", &losses, &g.f32("losses"), bound);
    for spec in table.specs() {
        let Some(expected) = g.of_param("final", spec) else { continue };
        if !spec.name.ends_with("qkv.bias") {
            close(&format!("final {}", spec.name), &backend.read(weights.flat(), spec.param.range()), &expected, 20.0 * bound);
        }
    }
}

fn classifier<B: Backend>(g: &Golden, backend: &B, bound: f32) {
    let model = &g.loaded.model;
    let weights = Weights::from_host(backend, &g.loaded.values);
    let mut gradients = backend.zeros(Dtype::F32, weights.len());
    let input = g.input(backend);
    let labels = g.u32("labels");
    let mut tape = Tape::training(backend, &weights, Dtype::F32, &mut gradients, None);
    let hidden = model.hidden(&mut tape, &input, false);
    let pooled = model.pooled(&mut tape, &hidden, &input).unwrap();
    let scale = 1.0 / labels.len() as f32;
    let losses = model.classifier().unwrap().loss(&mut tape, &pooled, &backend.indices(&labels), scale, 0.0);
    let loss = losses.to_host(backend).chunks(2).map(|row| row[0]).sum::<f32>() * scale;
    tape.backward();
    close("loss", &[loss], &g.f32("loss"), 1e-5);
    compare_gradients(g, backend, &gradients, bound);
}

/// All three models, with everything that is known of them.
pub(crate) fn everything<B: Backend>(backend: &B, bound: f32) {
    let pretraining = Golden::open("bert-tiny");
    hidden_states(&pretraining, backend, Dtype::F32, bound);
    gradients(&pretraining, backend, "loss", 5.0 * bound);
    ten_steps(&pretraining, backend, bound);
    let untied = Golden::open("bert-tiny-untied");
    hidden_states(&untied, backend, Dtype::F32, bound);
    gradients(&untied, backend, "mlm_loss", 5.0 * bound);
    let with_labels = Golden::open("bert-tiny-classifier");
    hidden_states(&with_labels, backend, Dtype::F32, bound);
    classifier(&with_labels, backend, 5.0 * bound);
}
