//! The tape: models are written forward only, and backward is the tape run in reverse.
//!
//! A [`Var`] is a shared tensor. An op's tape method computes its output and, when gradients are wanted, records a
//! closure that owns what its backward half needs. Running backward consumes the closures one by one, so memory is
//! freed as it goes. Without gradients nothing is recorded and a tensor dies with its last `Var`.

use std::collections::HashMap;
use std::rc::Rc;

use crate::backend::Backend;
use crate::dtype::Dtype;
use crate::ops::attention::Attention;
use crate::random::{Key, Stream};
use crate::tensor::{Target, Tensor, Weights, Write};

/// A tensor on the tape. Cloning is cheap.
pub struct Var<B: Backend> {
    id: usize,
    tensor: Rc<Tensor<B>>,
}

impl<B: Backend> Clone for Var<B> {
    fn clone(&self) -> Self {
        Self { id: self.id, tensor: Rc::clone(&self.tensor) }
    }
}

impl<B: Backend> std::ops::Deref for Var<B> {
    type Target = Tensor<B>;

    fn deref(&self) -> &Tensor<B> {
        &self.tensor
    }
}

/// What an attention got.
pub struct Watched<B: Backend> {
    /// Which attention.
    pub op: Attention,
    /// Queries, keys and values. // [T, 3H]
    pub qkv: Var<B>,
    /// The bias of its scores by distance. // f32 [2R + 1, N]
    pub bias: Option<Var<B>>,
}

/// Dropout of one place of the model: each element is dropped with `probability` by its own draw of `key`.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// The probability that an element is dropped, in [0, 1).
    pub probability: f32,
    /// The draws: element `i` is dropped when `key.u16(i) < threshold()`.
    pub key: Key,
}

impl Dropout {
    /// The bound on 16-bit draws: `round(probability · 65536)`.
    pub fn threshold(&self) -> u32 {
        (f64::from(self.probability) * 65536.0).round() as u32
    }

    /// What kept elements are multiplied by, so that the expectation stays: 65536 / (65536 − threshold).
    pub fn scale(&self) -> f32 {
        (65536.0 / (65536.0 - f64::from(self.threshold()))) as f32
    }

    /// The factor of element `index`: 0 or [`Dropout::scale`].
    #[inline]
    pub fn factor(&self, index: u64) -> f32 {
        if u32::from(self.key.u16(index)) < self.threshold() { 0.0 } else { self.scale() }
    }
}

/// What is fixed while a tape lives.
pub(crate) struct Setting<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) weights: &'a Weights<B>,
    dtype: Dtype,
    /// Dropout is on when there is a (seed, step).
    draws: Option<(u64, u64)>,
}

impl<B: Backend> Clone for Setting<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Setting<'_, B> {}

type Step<'a, B> = Box<dyn FnOnce(&mut Reverse<'a, '_, B>) + 'a>;

/// A run of a model: forward ops, and what their backward halves need.
pub struct Tape<'a, B: Backend> {
    setting: Setting<'a, B>,
    recording: bool,
    gradients: Option<&'a mut B::Buffer>,
    steps: Vec<Step<'a, B>>,
    roots: HashMap<usize, Tensor<B>>,
    next_id: usize,
    next_place: u32,
    watched: Option<Vec<Watched<B>>>,
    /// How many attentions have run.
    attentions: usize,
    /// Heads whose output counts as zero: which attention, which of its heads.
    off: Vec<(usize, usize)>,
}

impl<'a, B: Backend> Tape<'a, B> {
    /// A tape for inference: no dropout, nothing recorded. Activations are stored as `dtype`.
    pub fn inference(backend: &'a B, weights: &'a Weights<B>, dtype: Dtype) -> Self {
        let setting = Setting { backend, weights, dtype, draws: None };
        let (steps, roots) = (Vec::new(), HashMap::new());
        Self {
            setting,
            recording: false,
            gradients: None,
            steps,
            roots,
            next_id: 0,
            next_place: 0,
            watched: None,
            attentions: 0,
            off: Vec::new(),
        }
    }

    /// A tape for training: parameter gradients are added to `gradients` (f32, the layout of the weights). Where the backend
    /// leaves out frozen parameters ([`crate::Storage::leaves_out_frozen`]) the buffer may end before them.
    /// With `draws = Some((seed, place))` dropout is on; `place` counts micro-batches over the whole run.
    pub fn training(
        backend: &'a B,
        weights: &'a Weights<B>,
        dtype: Dtype,
        gradients: &'a mut B::Buffer,
        draws: Option<(u64, u64)>,
    ) -> Self {
        let mut tape = Self::inference(backend, weights, dtype);
        tape.setting.draws = draws;
        tape.recording = true;
        tape.gradients = Some(gradients);
        tape
    }

    /// The backend that runs this tape.
    pub fn backend(&self) -> &'a B {
        self.setting.backend
    }

    /// The weights this tape reads.
    pub fn weights(&self) -> &'a Weights<B> {
        self.setting.weights
    }

    /// The element kind of activations.
    pub fn dtype(&self) -> Dtype {
        self.setting.dtype
    }

    /// Keep what every attention from now on gets, for people who look inside: no op gives the probabilities themselves.
    pub fn watch_attention(&mut self) {
        self.watched = Some(Vec::new());
    }

    /// What the attentions got since [`Tape::watch_attention`], in the order they ran.
    pub fn watched_attention(&mut self) -> Vec<Watched<B>> {
        self.watched.take().unwrap_or_default()
    }

    /// Take the output of these heads as zero: what the model says without them (Michel et al. 2019). Each is which attention, in the
    /// order they run, and which of its heads. For inference: a head that is off has no gradient to speak of.
    pub fn switch_off(&mut self, heads: &[(usize, usize)]) {
        assert!(!self.recording, "heads are switched off on tapes for inference");
        self.off = heads.to_vec();
    }

    /// An attention runs; the heads of it that are off.
    pub(crate) fn see_attention(&mut self, op: Attention, qkv: &Var<B>, bias: Option<&Var<B>>) -> Vec<usize> {
        if let Some(watched) = &mut self.watched {
            watched.push(Watched { op, qkv: qkv.clone(), bias: bias.cloned() });
        }
        let place = self.attentions;
        self.attentions += 1;
        self.off.iter().filter(|(attention, head)| *attention == place && *head < op.heads).map(|(_, head)| *head).collect()
    }

    /// Whether backward will run.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Dropout for the next place of the model, or `None` when it is off. Each call is another place.
    pub fn dropout_at(&mut self, probability: f32) -> Option<Dropout> {
        let place = self.next_place;
        self.next_place += 1;
        let (seed, step) = self.setting.draws?;
        (probability > 0.0).then(|| Dropout { probability, key: Key::new(seed, Stream::Dropout, step, place) })
    }

    /// A new activation tensor of the tape's dtype.
    pub(crate) fn tensor(&self, rows: usize, cols: usize) -> Tensor<B> {
        Tensor::new(self.setting.backend, self.setting.dtype, rows, cols)
    }

    /// Put a tensor on the tape. Nothing flows back beyond it unless an op records so.
    pub fn var(&mut self, tensor: Tensor<B>) -> Var<B> {
        let id = self.next_id;
        self.next_id += 1;
        Var { id, tensor: Rc::new(tensor) }
    }

    pub(crate) fn record(&mut self, step: impl FnOnce(&mut Reverse<'a, '_, B>) + 'a) {
        if self.recording {
            self.steps.push(Box::new(step));
        }
    }

    /// The flat gradient buffer, for ops that compute their gradient in the forward pass (losses).
    pub(crate) fn gradients(&mut self) -> Option<&mut B::Buffer> {
        self.gradients.as_deref_mut()
    }

    /// A gradient known before backward runs (of a loss), added to what is known of `var`.
    pub(crate) fn root(&mut self, var: &Var<B>, gradient: Tensor<B>) {
        match self.roots.get_mut(&var.id) {
            Some(sum) => self.setting.backend.accumulate(sum.view_mut(), gradient.view()),
            None => {
                self.roots.insert(var.id, gradient);
            }
        }
    }

    /// Start backward from `var` with a given gradient (tests, and losses computed outside).
    pub fn seed(&mut self, var: &Var<B>, gradient: Tensor<B>) {
        self.root(var, gradient);
    }

    /// Run backward. Parameter gradients are added to the buffer given at the start.
    pub fn backward(self) {
        self.backward_to(&[]);
    }

    /// Run backward and return the gradients of `inputs` (`None` where nothing reached one).
    pub fn backward_to(mut self, inputs: &[&Var<B>]) -> Vec<Option<Tensor<B>>> {
        let gradients = self.gradients.take().expect("backward on an inference tape");
        let mut reverse = Reverse { setting: self.setting, gradients, slots: self.roots };
        while let Some(step) = self.steps.pop() {
            step(&mut reverse);
        }
        inputs.iter().map(|v| reverse.slots.remove(&v.id)).collect()
    }

    /// Run `segment` on `x` without keeping its inner activations; backward computes them again
    /// (Chen et al. 2016, "Training deep nets with sublinear memory cost"). Losses cannot stand inside a segment.
    pub fn recompute(&mut self, x: &Var<B>, segment: impl Fn(&mut Tape<'a, B>, &Var<B>) -> Var<B> + 'a) -> Var<B> {
        let place = self.next_place;
        let was_recording = std::mem::replace(&mut self.recording, false);
        let y = segment(self, x);
        self.recording = was_recording;
        let (x, y_id) = (x.clone(), y.id);
        self.record(move |reverse| {
            let Some(dy) = reverse.take_id(y_id) else { return };
            // The inner tape owns fresh ids; its input is the outer one's tensor, its draws are the same places.
            let mut inner = Tape {
                setting: reverse.setting,
                recording: true,
                gradients: None,
                steps: Vec::new(),
                roots: HashMap::new(),
                next_id: 1,
                next_place: place,
                watched: None,
                attentions: 0,
                off: Vec::new(),
            };
            let inner_x = Var { id: 0, tensor: Rc::clone(&x.tensor) };
            let inner_y = segment(&mut inner, &inner_x);
            let steps = std::mem::take(&mut inner.steps);
            drop(inner);
            let mut nested = Reverse { setting: reverse.setting, gradients: reverse.gradients, slots: HashMap::from([(inner_y.id, dy)]) };
            drop(inner_y);
            for step in steps.into_iter().rev() {
                step(&mut nested);
            }
            if let Some(dx) = nested.slots.remove(&0) {
                reverse.add(&x, dx);
            }
        });
        y
    }
}

/// The reverse run: gradients on their way back.
pub struct Reverse<'a, 'g, B: Backend> {
    pub(crate) setting: Setting<'a, B>,
    /// Parameter gradients, flat. // f32 [weights]
    pub(crate) gradients: &'g mut B::Buffer,
    slots: HashMap<usize, Tensor<B>>,
}

impl<B: Backend> Reverse<'_, '_, B> {
    /// Take the gradient of `id`; `None` when nothing depends on it.
    fn take_id(&mut self, id: usize) -> Option<Tensor<B>> {
        self.slots.remove(&id)
    }

    /// Take the gradient of `id` (an op's output).
    pub(crate) fn take(&mut self, id: usize) -> Option<Tensor<B>> {
        self.take_id(id)
    }

    /// The tensor in which the gradient of `var` is to be produced or accumulated; give it back with [`Reverse::put`].
    pub(crate) fn slot(&mut self, var: &Var<B>) -> Slot<B> {
        match self.slots.remove(&var.id) {
            Some(tensor) => Slot { id: var.id, tensor, write: Write::Add },
            None => {
                let tensor = Tensor::new(self.setting.backend, var.dtype(), var.rows(), var.cols());
                Slot { id: var.id, tensor, write: Write::Over }
            }
        }
    }

    /// Give a slot back, now holding the gradient.
    pub(crate) fn put(&mut self, slot: Slot<B>) {
        self.slots.insert(slot.id, slot.tensor);
    }

    /// Add a finished gradient to `var`'s.
    pub(crate) fn add(&mut self, var: &Var<B>, gradient: Tensor<B>) {
        self.add_id(var.id, gradient);
    }

    /// Add a finished gradient to that of `id`.
    pub(crate) fn add_id(&mut self, id: usize, gradient: Tensor<B>) {
        match self.slots.get_mut(&id) {
            Some(sum) => self.setting.backend.accumulate(sum.view_mut(), gradient.view()),
            None => {
                self.slots.insert(id, gradient);
            }
        }
    }
}

/// A gradient under construction.
pub(crate) struct Slot<B: Backend> {
    id: usize,
    tensor: Tensor<B>,
    write: Write,
}

impl<B: Backend> Slot<B> {
    pub(crate) fn target(&mut self) -> Target<'_, B> {
        Target { view: self.tensor.view_mut(), write: self.write }
    }
}

impl<B: Backend> Var<B> {
    pub(crate) fn id(&self) -> usize {
        self.id
    }

    /// Its tensor, where nothing else holds it.
    pub(crate) fn into_tensor(self) -> Result<Tensor<B>, Self> {
        let id = self.id;
        Rc::try_unwrap(self.tensor).map_err(|tensor| Self { id, tensor })
    }
}
