//! Semantic search: the texts of a file as vectors on disk, and the nearest of them to a question.
//!
//! An index is a folder: `index.json` (what it holds), `vectors.f32` (row after row, little-endian, of length 1) and
//! `rows.jsonl` (the rows, in the same order). A query looks at every vector: exact, and fast enough for some millions.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cloze_task::rows::{Needed, Rows};
use cloze_task::sentence_embedding::{cosine, embed, vector};
use cloze_task::{Columns, Field, Options, Row, Runner, Sequence, TaskError};
use cloze_train::files::{FileError, Operation, replace_folder};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Pipeline};

/// The values of a row that is searched.
pub static FIELDS: [Field; 2] = [
    Field {
        name: "text",
        about: "the text that is found",
        usual: &["passage", "content", "sentence", "document", "answer", "title", "body", "column1"],
        needed: Needed::Always,
    },
    Field { name: "id", about: "its name", usual: &["doc_id", "docid", "item_id"], needed: Needed::Optional },
];

/// Why an index cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A file of the index is missing, cut, or not what it should be.
    #[error("{}: {problem}; make the index again with `cloze search index`", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The folder of the new index holds something else, which would be lost.
    #[error("{}: the folder holds files that are not an index's; give a new or an empty folder, or that of an older index", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// More numbers of a vector are wanted than it has, or none.
    #[error("dimensions {found}: the model's vectors have {width} numbers; give 1 to {width}")]
    Dimensions {
        /// What was asked for.
        found: usize,
        /// What a vector has.
        width: usize,
    },
    /// The index was made by a model whose vectors are as long, but mean something else.
    #[error(
        "the index was made by another model: the vector of its first text and the one that this model makes have a cosine of {cosine:.2}; use the model \
         that made it, {made_by}, or, where that has been trained anew, make the index again with `cloze search index`"
    )]
    OtherModel {
        /// How near the two are.
        cosine: f32,
        /// What made it.
        made_by: String,
    },
    /// The index was made by a model with other vectors.
    #[error("the index was made from vectors of {index} numbers, the model makes {model}; use the model that made it: {made_by}")]
    Width {
        /// Those of the model that made the index.
        index: usize,
        /// Those of the model at hand.
        model: usize,
        /// What made it.
        made_by: String,
    },
}

/// What an index holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The layout.
    pub version: u32,
    /// Numbers of a vector.
    pub width: usize,
    /// Numbers of a vector of the model before it was cut; indexes of earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<usize>,
    /// Rows.
    pub count: usize,
    /// Rows whose text was longer than the model reads: what stands behind that is not found.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: usize,
    /// The folder of the model that made it.
    pub model: String,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A row that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// Which row of the index, from 0.
    pub index: usize,
    /// The cosine of question and text.
    pub score: f32,
    /// The row.
    pub row: Value,
}

/// An index, ready to be asked.
#[derive(Debug)]
pub struct Index {
    manifest: Manifest,
    vectors: Vec<f32>,
    rows: File,
    path: PathBuf,
    /// Where each row starts, and where the last one ends.
    starts: Vec<u64>,
    /// How near the first row's vector is to the one that the asking model makes of its text.
    agreement: OnceLock<f32>,
}

/// The least cosine of a text's vector in an index and anew, in another precision or cut elsewhere.
const AGREEMENT: f32 = 0.8;

/// Rows embedded together.
const CHUNK: usize = 256;

/// Vectors of texts, of length 1. // `[texts][width]`
pub fn vectors(pipeline: &Pipeline, prefix: &str, texts: &[&str], dimensions: Option<usize>) -> Result<Vec<Vec<f32>>, Error> {
    Ok(counted(pipeline, prefix, texts, dimensions)?.0)
}

/// The same, and how many of the texts were cut to what the model reads.
fn counted(pipeline: &Pipeline, prefix: &str, texts: &[&str], dimensions: Option<usize>) -> Result<(Vec<Vec<f32>>, usize), Error> {
    let context = pipeline.context();
    let encoded = texts.iter().map(|t| embed(context, prefix, t)).collect::<Result<Vec<(Sequence, bool)>, _>>()?;
    let options = Options { dimensions, normalize: Some(true), ..Options::default() };
    let outputs = pipeline.run(&encoded.iter().map(|(sequence, _)| sequence).collect::<Vec<_>>())?;
    let cut = encoded.iter().filter(|(_, cut)| *cut).count();
    Ok((outputs.iter().map(|o| vector(context, o, &options)).collect(), cut))
}

/// The text of a row that is searched; a number is its digits.
fn text_of(row: &Row) -> Result<String, TaskError> {
    match row.value.get("text") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(_) | Value::Bool(_)) => row.written("text"),
        _ => Err(row.fault("text", "a text")),
    }
}

/// Numbers of a whole vector of a model.
fn width(pipeline: &Pipeline) -> usize {
    let hidden = pipeline.model().blueprint.hidden_size;
    pipeline.context().settings.dense.last().map_or(hidden, |d| d.out_features)
}

/// The files of an index.
const FILES: [&str; 3] = ["index.json", "vectors.f32", "rows.jsonl"];

/// Whether an index may be written where `out` stands: nothing is there, or nothing but an older index.
fn may_be_replaced(out: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(out) else { return !out.exists() };
    let names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
    let manifest = || serde_json::from_slice::<Manifest>(&std::fs::read(out.join(FILES[0])).ok()?).ok();
    names.is_empty() || (names.iter().all(|name| FILES.iter().any(|file| name == file)) && manifest().is_some())
}

/// Index the rows of a file. `model` is told to those who open the index; `seen` is told how many rows are done.
pub fn build(
    pipeline: &Pipeline,
    model: &Path,
    data: &Path,
    columns: &Columns,
    dimensions: Option<usize>,
    out: &Path,
    seen: &mut dyn FnMut(usize),
) -> Result<Manifest, Error> {
    if !may_be_replaced(out) {
        return Err(SearchError::Occupied { path: out.to_owned() }.into());
    }
    let whole = width(pipeline);
    if let Some(found) = dimensions.filter(|d| !(1..=whole).contains(d)) {
        return Err(SearchError::Dimensions { found, width: whole }.into());
    }
    let mut manifest = Manifest { version: 1, width: 0, whole: Some(whole), count: 0, cut: 0, model: model.display().to_string() };
    let mut rows = Rows::open(data, &FIELDS, columns, false)?;
    replace_folder(out, |folder| -> Result<(), Error> {
        let create = |name: &str| File::create(folder.join(name)).map_err(|e| FileError::io(Operation::Write, folder.join(name), e));
        let wrong = |e| FileError::io(Operation::Write, folder, e);
        let (mut values, mut lines) = (BufWriter::new(create("vectors.f32")?), BufWriter::new(create("rows.jsonl")?));
        loop {
            let mut chunk = rows.by_ref().take(CHUNK).collect::<Result<Vec<_>, _>>()?;
            if chunk.is_empty() {
                break;
            }
            let texts = chunk.iter().map(text_of).collect::<Result<Vec<_>, _>>()?;
            let prefix = &pipeline.context().settings.passage_prefix;
            let (found, cut) = counted(pipeline, prefix, &texts.iter().map(String::as_str).collect::<Vec<_>>(), dimensions)?;
            manifest.cut += cut;
            for ((row, text), vector) in chunk.iter_mut().zip(texts).zip(found) {
                manifest.width = vector.len();
                row.value["text"] = Value::String(text);
                vector.iter().try_for_each(|v| values.write_all(&v.to_le_bytes())).map_err(wrong)?;
                writeln!(lines, "{}", row.value).map_err(wrong)?;
            }
            manifest.count += chunk.len();
            seen(manifest.count);
        }
        if manifest.count == 0 {
            return Err(TaskError::TooLittle { path: data.to_owned(), problem: "no rows; there is nothing to find".into() }.into());
        }
        values.flush().and_then(|()| lines.flush()).map_err(wrong)?;
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        create("index.json")?.write_all(&text).map_err(wrong)?;
        Ok(())
    })?;
    Ok(manifest)
}

impl Index {
    /// Open an index.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let fault = |name: &str, problem: String| SearchError::Index { path: folder.join(name), problem };
        let read = |name: &'static str| std::fs::read(folder.join(name)).map_err(|e| fault(name, e.to_string()));
        let manifest: Manifest = serde_json::from_slice(&read("index.json")?).map_err(|e| fault("index.json", e.to_string()))?;
        if manifest.version != 1 {
            return Err(fault("index.json", format!("version {}, expected 1", manifest.version)).into());
        }
        let expected = manifest.count.checked_mul(manifest.width).and_then(|n| n.checked_mul(4));
        let path = folder.join("vectors.f32");
        let length = std::fs::metadata(&path).map_err(|e| fault("vectors.f32", e.to_string()))?.len();
        if expected.map(|e| e as u64) != Some(length) {
            let problem = format!("{length} bytes, expected {} vectors of {} numbers", manifest.count, manifest.width);
            return Err(fault("vectors.f32", problem).into());
        }
        let bytes = read("vectors.f32")?;
        let vectors = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let path = folder.join("rows.jsonl");
        let rows = File::open(&path).map_err(|e| fault("rows.jsonl", e.to_string()))?;
        let mut reader = BufReader::new(&rows);
        let (mut starts, mut line) = (vec![0u64], Vec::new());
        while reader.read_until(b'\n', &mut line).map_err(|e| fault("rows.jsonl", e.to_string()))? > 0 {
            starts.push(starts[starts.len() - 1] + line.len() as u64);
            line.clear();
        }
        if starts.len() != manifest.count + 1 {
            return Err(fault("rows.jsonl", format!("{} rows, expected {}", starts.len() - 1, manifest.count)).into());
        }
        Ok(Self { manifest, vectors, rows, path, starts, agreement: OnceLock::new() })
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The `top` nearest rows to a question, the nearest first.
    pub fn query(&self, pipeline: &Pipeline, question: &str, top: usize) -> Result<Vec<Hit>, Error> {
        let prefix = &pipeline.context().settings.query_prefix;
        let (kept, model) = (self.manifest.width, width(pipeline));
        // A wider model's vectors can be cut to the index's width, but mean something else.
        if self.manifest.whole.map_or(model < kept, |whole| model != whole) {
            let index = self.manifest.whole.unwrap_or(kept);
            return Err(SearchError::Width { index, model, made_by: self.manifest.model.clone() }.into());
        }
        let cosine = self.agreement(pipeline)?;
        if cosine < AGREEMENT {
            return Err(SearchError::OtherModel { cosine, made_by: self.manifest.model.clone() }.into());
        }
        let asked = vectors(pipeline, prefix, &[question], Some(kept))?.remove(0);
        self.nearest(&asked, top).into_iter().map(|(index, score)| Ok(Hit { index, score, row: self.row(index)? })).collect()
    }

    /// The cosine of the first row's vector with the one that a model makes of its text; looked at once.
    fn agreement(&self, pipeline: &Pipeline) -> Result<f32, Error> {
        if let Some(&known) = self.agreement.get() {
            return Ok(known);
        }
        let Some(stored) = self.vectors.get(..self.manifest.width).filter(|v| !v.is_empty()) else { return Ok(1.0) };
        let row = self.row(0)?;
        let text = row.get("text").and_then(Value::as_str).unwrap_or_default();
        let anew = vectors(pipeline, &pipeline.context().settings.passage_prefix, &[text], Some(self.manifest.width))?.remove(0);
        Ok(*self.agreement.get_or_init(|| cosine(stored, &anew)))
    }

    /// The `top` rows nearest to a vector of length 1, with their cosines; of equals the first.
    pub fn nearest(&self, asked: &[f32], top: usize) -> Vec<(usize, f32)> {
        let scores: Vec<f32> =
            self.vectors.chunks_exact(self.manifest.width.max(1)).map(|v| v.iter().zip(asked).map(|(a, b)| a * b).sum()).collect();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        let better = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
        if top < order.len() {
            order.select_nth_unstable_by(top, better);
            order.truncate(top);
        }
        order.sort_unstable_by(better);
        order.into_iter().map(|i| (i, scores[i])).collect()
    }

    fn row(&self, index: usize) -> Result<Value, Error> {
        let fault = |problem: String| SearchError::Index { path: self.path.clone(), problem };
        let mut bytes = vec![0; (self.starts[index + 1] - self.starts[index]) as usize];
        let mut file = &self.rows;
        file.seek(SeekFrom::Start(self.starts[index])).and_then(|_| file.read_exact(&mut bytes)).map_err(|e| fault(e.to_string()))?;
        Ok(serde_json::from_slice(&bytes).map_err(|e| fault(e.to_string()))?)
    }
}
