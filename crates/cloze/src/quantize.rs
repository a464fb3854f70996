//! A model folder in half or a quarter of its size: which matrices stand 8 bits is found out on the user's own rows.
//!
//! 1. Every matrix of the body is made bytes alone, and the last hidden states are compared with those of f32: its sensitivity.
//! 2. All are made bytes and the task is evaluated. While the figure has lost more than is allowed, the most sensitive matrices
//!    go back to bf16, twice as many each time.
//! 3. The folder is written, loaded again, and evaluated once more: what is reported is what the user gets.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use cloze_model::Model;
use cloze_model::files::quantized::save_frozen;
use cloze_model::params::Spec;
use cloze_task::{Columns, Options, Output, Row, Rows, Runner, Sequence, TaskError, Want};
use cloze_tensor::Operands;

use crate::pipeline::Form;
use crate::{Device, Error, Pipeline};

/// What is to be made of a folder.
#[derive(Clone, Debug)]
pub struct Quantization {
    /// The folder of the model.
    pub model: PathBuf,
    /// The folder to write; it must not exist.
    pub out: PathBuf,
    /// int8, or bf16 (half the size, no search).
    pub operands: Operands,
    /// Rows to check on; labelled for a figure, else only hidden states are compared.
    pub dev: PathBuf,
    /// The task of the rows; what the model is for by default.
    pub task: Option<String>,
    /// Which columns hold what.
    pub columns: Columns,
    /// What the task is asked.
    pub options: Options,
    /// How much of the task's figure may be lost, as a share (0.005: half a point of accuracy).
    pub tolerance: f64,
    /// Rows whose hidden states are compared.
    pub samples: usize,
}

/// What came out.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// Why the rows count as rows without labels, where they do: which column was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlabelled: Option<String>,
    /// The figure that was looked at, such as accuracy.
    pub figure: Option<String>,
    /// It in f32.
    pub before: Option<f64>,
    /// It in the folder that was written.
    pub after: Option<f64>,
    /// The smallest cosine between last hidden states of f32 and of the folder, over all tokens of the samples.
    pub worst_cosine: f64,
    /// Matrices in 8 bits.
    pub int8: usize,
    /// Matrices that stayed in bf16, the most sensitive first.
    pub kept: Vec<String>,
    /// How far each matrix alone moves the last hidden states (‖h − h′‖ / ‖h‖), the most first.
    pub sensitivity: Vec<(String, f64)>,
    /// Bytes of the weights' file before.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
}

/// What the work tells on its way: a stage, how much of it is done, of how much.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// Quantise a folder; see the module.
pub fn quantize(device: &Device, what: &Quantization, progress: Progress) -> Result<Outcome, Error> {
    let folder = crate::hub::model_folder(&what.model, &mut |_| ())?;
    let exact = Pipeline::with_form(device, &folder, &Form::whole(Operands::F32), None)?;
    let task = exact.require(what.task.as_deref())?;
    let (rows, unlabelled) = match Rows::read_all(&what.dev, task.fields(), &what.columns, true) {
        Ok(rows) => (rows, None),
        // Rows without a column of labels are good for hidden states; rows with a faulty one are not what the user meant.
        Err(missing @ TaskError::Column { .. }) => {
            (Rows::read_all(&what.dev, task.fields(), &what.columns, false)?, Some(missing.to_string()))
        }
        Err(fault) => return Err(fault.into()),
    };
    let sample = sample(&exact, task, &rows, what)?;
    progress("f32", 0, 1);
    let truth = hidden(&exact, &sample)?;
    let figure_of = |pipeline: &Pipeline| -> Result<Option<(String, f64)>, Error> {
        if unlabelled.is_some() {
            return Ok(None);
        }
        let figures = pipeline.evaluate_rows(task, &rows, &what.options, &mut |_, _, _| Ok(()))?;
        let goals = task.learning().map_or(&[][..], |l| l.goals());
        Ok(goals.iter().find_map(|g| figures.values.get(*g).map(|v| ((*g).to_owned(), *v))))
    };
    let before = figure_of(&exact)?;
    let matrices: Vec<String> = exact.model().table().specs().iter().filter(|s| Model::is_quantizable(s)).map(|s| s.name.clone()).collect();

    let mut sensitivity = Vec::new();
    let mut kept: Vec<String> = Vec::new();
    if what.operands == Operands::Int8 {
        for (i, name) in matrices.iter().enumerate() {
            progress("sensitivity of each matrix", i, matrices.len());
            let alone = |spec: &Spec| if spec.name == *name { Operands::Int8 } else { Operands::F32 };
            let pipeline = Pipeline::with_form(device, &folder, &Form { operands: &alone, activations: Operands::F32 }, None)?;
            sensitivity.push((name.clone(), distance(&truth, &hidden(&pipeline, &sample)?)));
        }
        sensitivity.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut back = 0;
        loop {
            progress("all together", back, matrices.len());
            kept = sensitivity[..back].iter().map(|s| s.0.clone()).collect();
            let whole: HashSet<&String> = kept.iter().collect();
            let choose =
                |spec: &Spec| if Model::is_quantizable(spec) && !whole.contains(&spec.name) { Operands::Int8 } else { Operands::Bf16 };
            let pipeline = Pipeline::with_form(device, &folder, &Form { operands: &choose, activations: Operands::Int8 }, None)?;
            let lost = match (&before, figure_of(&pipeline)?) {
                (Some((_, before)), Some((_, after))) => before - after,
                // Without labels the states themselves must not turn by more than about six degrees.
                _ if worst_cosine(&truth, &hidden(&pipeline, &sample)?) < 0.995 => f64::INFINITY,
                _ => 0.0,
            };
            if lost <= what.tolerance || back == matrices.len() {
                break;
            }
            back = (2 * back).max(1).min(matrices.len());
        }
    }

    progress("writing", 0, 1);
    let whole: HashSet<&String> = kept.iter().collect();
    let choose = |spec: &Spec| match what.operands {
        Operands::Int8 if Model::is_quantizable(spec) && !whole.contains(&spec.name) => Operands::Int8,
        Operands::F32 => Operands::F32,
        _ => Operands::Bf16,
    };
    let opened = cloze_model::open(&folder, None, 0)?;
    cloze_train::files::create_folder(&what.out)?;
    copy_rest(&folder, &what.out)?;
    save_frozen(&opened, &folder, &what.out, &choose, &|matrix, depth| {
        let q = cloze_cpu::gemm::Quantized::new(matrix, depth);
        (q.values, q.scales)
    })?;
    let written = Pipeline::load(device, &what.out, cloze_train::run::Precision::Auto, None)?;
    let after = figure_of(&written)?;
    let int8 = if what.operands == Operands::Int8 { matrices.len() - kept.len() } else { 0 };
    Ok(Outcome {
        unlabelled: unlabelled.clone(),
        figure: before.as_ref().map(|b| b.0.clone()),
        before: before.map(|b| b.1),
        after: after.map(|a| a.1),
        worst_cosine: worst_cosine(&truth, &hidden(&written, &sample)?),
        int8,
        kept,
        sensitivity,
        bytes_before: bytes(&folder),
        bytes_after: bytes(&what.out),
    })
}

/// Sequences of evenly chosen rows, asked for all their hidden states.
fn sample(pipeline: &Pipeline, task: &dyn cloze_task::Task, rows: &[Row], what: &Quantization) -> Result<Vec<Sequence>, Error> {
    let step = (rows.len() / what.samples.max(1)).max(1);
    let mut all = Vec::new();
    for row in rows.iter().step_by(step).take(what.samples.max(1)) {
        for mut sequence in pipeline.encode(task, &row.value, &what.options)?.sequences {
            sequence.want = Want::Hidden;
            all.push(sequence);
        }
    }
    Ok(all)
}

/// Last hidden states of sequences. // sequences × [len, H], and H
fn hidden(pipeline: &Pipeline, sequences: &[Sequence]) -> Result<Vec<(usize, Vec<f32>)>, Error> {
    let asked: Vec<&Sequence> = sequences.iter().collect();
    let outputs = pipeline.run(&asked)?;
    Ok(outputs
        .into_iter()
        .map(|o| match o {
            Output::Rows { width, values } => (width, values),
            _ => (1, Vec::new()),
        })
        .collect())
}

/// ‖a − b‖ / ‖a‖ over everything.
fn distance(a: &[(usize, Vec<f32>)], b: &[(usize, Vec<f32>)]) -> f64 {
    let (mut apart, mut size) = (0.0, 1e-30);
    for (x, y) in a.iter().flat_map(|(_, v)| v).zip(b.iter().flat_map(|(_, v)| v)) {
        apart += f64::from(x - y).powi(2);
        size += f64::from(*x).powi(2);
    }
    (apart / size).sqrt()
}

/// The smallest cosine between rows.
fn worst_cosine(a: &[(usize, Vec<f32>)], b: &[(usize, Vec<f32>)]) -> f64 {
    let mut worst = 1.0f64;
    for ((width, x), (_, y)) in a.iter().zip(b) {
        for (x, y) in x.chunks_exact(*width).zip(y.chunks_exact(*width)) {
            let dot = |p: &[f32], q: &[f32]| p.iter().zip(q).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            worst = worst.min(dot(x, y) / (dot(x, x) * dot(y, y)).sqrt().max(1e-30));
        }
    }
    worst
}

/// Everything of a model folder but its weights and their configuration, one level of folders deep (pooling, dense layers).
fn copy_rest(from: &Path, to: &Path) -> Result<(), Error> {
    use cloze_train::files::{FileError, Operation, create_folder};
    let entries = |path: &Path| std::fs::read_dir(path).map_err(|e| FileError::io(Operation::Read, path, e));
    let copy = |from: &Path, to: &Path| std::fs::copy(from, to).map(|_| ()).map_err(|e| FileError::io(Operation::Write, to, e));
    for entry in entries(from)?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let weights = name.to_string_lossy();
        if weights.starts_with("model.safetensors")
            || weights.starts_with("model-0")
            || weights.starts_with("pytorch_model")
            || weights == "config.json"
            || weights == crate::hub::COMPLETE
        {
            continue;
        }
        if path.is_dir() {
            create_folder(&to.join(&name))?;
            for inner in entries(&path)?.flatten().filter(|i| i.path().is_file()) {
                copy(&inner.path(), &to.join(&name).join(inner.file_name()))?;
            }
        } else {
            copy(&path, &to.join(&name))?;
        }
    }
    Ok(())
}

/// Bytes of the weights of a folder.
fn bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter(|f| f.path().extension().is_some_and(|e| e == "safetensors")).filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum()
}
