//! The shape of a transformer encoder, as data. Layers ask the blueprint, never the family's name.

use cloze_tensor::ops::activation::Activation;
use cloze_tensor::ops::attention::Visibility;
use cloze_tensor::ops::norm::NormKind;
use cloze_tensor::ops::pool::Pool;

use crate::relative::RelativeBias;

/// Where the norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// After the residual sum (Devlin et al. 2018): x ← norm(x + f(x)).
    Post,
    /// Before the sublayer (Xiong et al. 2020): x ← x + f(norm(x)), one norm at the end.
    /// Where embeddings have a norm of their own, the first attention takes them as they are (ModernBERT).
    Pre,
}

/// How a token knows its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position {
    /// A learned table of `max` places; place `i` reads row `i + offset`.
    Learned {
        /// Rows of the table.
        max: usize,
        /// Added to the place.
        offset: usize,
    },
    /// q and k are turned (Su et al. 2021).
    Rotary {
        /// The longest sequence promised.
        max: usize,
        /// The base of the angles.
        theta: f32,
    },
}

impl Position {
    /// The longest sequence the model takes, in tokens.
    pub fn longest(&self) -> usize {
        match *self {
            Position::Learned { max, offset } => max - offset,
            Position::Rotary { max, .. } => max,
        }
    }
}

/// The feed-forward sublayer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// W₂ f(W₁ x).
    Plain,
    /// W₂ (f(a) ⊙ b), [a | b] = W₁ x (Shazeer 2020).
    Gated,
}

/// The head that turns the pooled row of a sequence into what a classifier reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summary {
    /// The body's pooler: a linear map and tanh (BERT).
    Pooler,
    /// The prediction head: linear, activation, norm (ModernBERT). Labels of tokens and spans are read behind it, too.
    PredictionHead,
    /// A linear map of the classifier's own, with this activation (RoBERTa, ELECTRA, DistilBERT).
    Dense {
        /// After the map.
        activation: Activation,
        /// Whether the classifier's dropout stands before the map, too.
        dropout_before: bool,
    },
}

/// Layers that see only their neighbourhood.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Local {
    /// Keys on either side of a query.
    pub window: usize,
    /// The base of the rotary angles in these layers.
    pub theta: f32,
    /// Layers 0, n, 2n … see everything; the others are local.
    pub global_every: usize,
}

/// The shape of a transformer encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// V.
    pub vocab_size: usize,
    /// E: the width of the embedding tables; H without a projection.
    pub embedding_size: usize,
    /// Whether a linear map takes the embeddings from E to H.
    pub embedding_projection: bool,
    /// Whether the embeddings have a norm.
    pub embedding_norm: bool,
    /// H.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of layers with weights of their own: the layers of a group share theirs (Lan et al. 2019).
    pub num_hidden_groups: usize,
    /// N.
    pub num_attention_heads: usize,
    /// I.
    pub intermediate_size: usize,
    /// Segments; 0: none.
    pub type_vocab_size: usize,
    /// Kinds of task, of which the first is added to every token (Sun et al. 2020, "ERNIE 2.0"); 0: none.
    pub task_type_vocab_size: usize,
    /// How a token knows its place.
    pub position: Position,
    /// What the distance of a key adds to its score, in all layers.
    pub relative: Option<RelativeBias>,
    /// Layers that do not see the whole sequence.
    pub local: Option<Local>,
    /// Which norm.
    pub norm: NormKind,
    /// Where the norms stand.
    pub norm_placement: NormPlacement,
    /// Added to the variance.
    pub layer_norm_eps: f32,
    /// Whether norms have a bias.
    pub norm_bias: bool,
    /// Whether the linear maps of attention, and the one that leads out of the feed-forward sublayer, have a bias.
    pub linear_bias: bool,
    /// Whether the linear map into the feed-forward sublayer has a bias.
    pub up_bias: bool,
    /// Whether the linear map of the prediction head's transform has a bias.
    pub prediction_bias: bool,
    /// The feed-forward sublayer.
    pub mlp: Mlp,
    /// Its activation.
    pub hidden_act: Activation,
    /// The activation of the prediction head.
    pub prediction_act: Activation,
    /// How a sequence becomes one row.
    pub pooling: Pool,
    /// Whether the bare body comes with a pooler (linear map and tanh).
    pub pooler: bool,
    /// What a classifier reads of that row.
    pub summary: Summary,
    /// Whether the prediction head's vocabulary projection is the embedding table.
    pub tie_word_embeddings: bool,
    /// Dropout of embeddings and sublayer outputs.
    pub hidden_dropout: f32,
    /// Dropout of attention probabilities.
    pub attention_dropout: f32,
    /// Dropout of what a classifier reads.
    pub classifier_dropout: f32,
    /// Standard deviation of initial weights.
    pub initializer_range: f32,
}

impl Blueprint {
    /// BERT as in the paper, with the given sizes (Devlin et al. 2018).
    pub fn bert(vocab_size: usize, layers: usize, hidden: usize, heads: usize, intermediate: usize) -> Self {
        Self {
            vocab_size,
            embedding_size: hidden,
            embedding_projection: false,
            embedding_norm: true,
            hidden_size: hidden,
            num_hidden_layers: layers,
            num_hidden_groups: layers,
            num_attention_heads: heads,
            intermediate_size: intermediate,
            type_vocab_size: 2,
            task_type_vocab_size: 0,
            position: Position::Learned { max: 512, offset: 0 },
            relative: None,
            local: None,
            norm: NormKind::LayerNorm,
            norm_placement: NormPlacement::Post,
            layer_norm_eps: 1e-12,
            norm_bias: true,
            linear_bias: true,
            up_bias: true,
            prediction_bias: true,
            mlp: Mlp::Plain,
            hidden_act: Activation::Gelu,
            prediction_act: Activation::Gelu,
            pooling: Pool::First,
            pooler: true,
            summary: Summary::Pooler,
            tie_word_embeddings: true,
            hidden_dropout: 0.1,
            attention_dropout: 0.1,
            classifier_dropout: 0.1,
            initializer_range: 0.02,
        }
    }

    /// The pre-norm, gated, rotary, bias-free encoder (Warner et al. 2024, "ModernBERT"), all layers attending globally.
    pub fn modern(vocab_size: usize, layers: usize, hidden: usize, heads: usize, intermediate: usize) -> Self {
        Self {
            type_vocab_size: 0,
            position: Position::Rotary { max: 8192, theta: 10_000.0 },
            norm_placement: NormPlacement::Pre,
            layer_norm_eps: 1e-5,
            norm_bias: false,
            linear_bias: false,
            up_bias: false,
            prediction_bias: false,
            mlp: Mlp::Gated,
            // Masked-LM training alone teaches every token's row something, the first one's least.
            pooling: Pool::Mean,
            pooler: false,
            summary: Summary::PredictionHead,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            classifier_dropout: 0.0,
            ..Self::bert(vocab_size, layers, hidden, heads, intermediate)
        }
    }

    /// (layers, hidden, heads, intermediate) of a size by name: the sizes that google-research/bert released.
    pub fn named_size(name: &str) -> Option<(usize, usize, usize, usize)> {
        Some(match name {
            "tiny" => (2, 128, 2, 512),
            "mini" => (4, 256, 4, 1024),
            "small" => (4, 512, 8, 2048),
            "medium" => (8, 512, 8, 2048),
            "base" => (12, 768, 12, 3072),
            "large" => (24, 1024, 16, 4096),
            _ => return None,
        })
    }

    /// D.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The group whose weights layer `index` has.
    pub fn group_of(&self, index: usize) -> usize {
        index * self.num_hidden_groups / self.num_hidden_layers
    }

    /// What layer `index` sees, and the base of its rotary angles.
    pub fn attention_of(&self, index: usize) -> (Visibility, Option<f32>) {
        let local = self.local.filter(|l| !index.is_multiple_of(l.global_every));
        let rotary = match self.position {
            Position::Rotary { theta, .. } => Some(local.map_or(theta, |l| l.theta)),
            Position::Learned { .. } => None,
        };
        (local.map_or(Visibility::All, |l| Visibility::Window(l.window)), rotary)
    }

    /// Floating-point operations a token costs in the body's forward pass, at sequences of `length` tokens:
    /// two for each weight, and 4·n·H for each layer's attention, n the keys that a token sees.
    pub fn forward_flops_per_token(&self, length: usize) -> f64 {
        let (h, i) = (self.hidden_size as f64, self.intermediate_size as f64);
        let mlp = if self.mlp == Mlp::Gated { 3.0 } else { 2.0 } * h * i;
        let keys = |index| match self.attention_of(index).0 {
            Visibility::Window(w) => length.min(2 * w + 1),
            _ => length,
        };
        let attention: f64 = (0..self.num_hidden_layers).map(|index| 4.0 * keys(index) as f64 * h).sum();
        let projection = if self.embedding_projection { 2.0 * self.embedding_size as f64 * h } else { 0.0 };
        self.num_hidden_layers as f64 * 2.0 * (4.0 * h * h + mlp) + attention + projection
    }

    /// Floating-point operations of one masked token's forward pass through the prediction head.
    pub fn head_flops_per_row(&self) -> f64 {
        let (h, e, v) = (self.hidden_size as f64, self.embedding_size as f64, self.vocab_size as f64);
        2.0 * (h * e + e * v)
    }

    /// What is wrong with the sizes, in words; `None` when they fit together.
    pub fn fault(&self) -> Option<String> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("embedding_size", self.embedding_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_hidden_groups", self.num_hidden_groups),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, v)| *v == 0) {
            return Some(format!("{name} is 0"));
        }
        // Caps before allocation: a hostile config must not ask for the machine's memory.
        let caps = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("embedding_size", self.embedding_size, 1 << 16),
            ("type_vocab_size", self.type_vocab_size, 1 << 16),
            ("task_type_vocab_size", self.task_type_vocab_size, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("intermediate_size", self.intermediate_size, 1 << 18),
        ];
        if let Some((name, v, cap)) = caps.iter().find(|(_, v, cap)| v > cap) {
            return Some(format!("{name} is {v}, above the limit of {cap}"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Some(format!("hidden_size {} is no multiple of num_attention_heads {}", self.hidden_size, self.num_attention_heads));
        }
        if self.num_hidden_groups > self.num_hidden_layers {
            return Some(format!("{} groups of layers, of which there are {}", self.num_hidden_groups, self.num_hidden_layers));
        }
        if !self.embedding_projection && self.embedding_size != self.hidden_size {
            return Some(format!("embedding_size {} is not hidden_size {}", self.embedding_size, self.hidden_size));
        }
        if self.local.is_some_and(|l| l.global_every == 0 || l.window > 1 << 20) {
            return Some(format!("local layers {:?}", self.local));
        }
        if let Some(fault) = self.relative.and_then(|r| r.fault()) {
            return Some(fault);
        }
        match self.position {
            Position::Rotary { .. } if !self.head_dim().is_multiple_of(2) => {
                Some(format!("rotary positions need an even head dimension, not {}", self.head_dim()))
            }
            Position::Rotary { max, .. } if max == 0 || max > 1 << 24 => Some(format!("{max} positions")),
            Position::Learned { max, offset } if max <= offset || max > 1 << 20 => Some(format!("{max} positions with offset {offset}")),
            // A text is at least a token between the two special ones.
            position if position.longest() < 3 => {
                Some(format!("the longest sequence is of {} tokens, expected at least 3", position.longest()))
            }
            _ => None,
        }
    }
}
