//! One route for each task of the registry: its input in, its answer out.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use cloze::task::rows::unknown;
use cloze::task::{Job, Options, Sequence, Step, Task, TaskError};
use serde_json::{Map, Value};

use crate::app::{App, Parsed};
use crate::error::ApiError;
use crate::models::Served;
use crate::queue;
use crate::tokenizing::Caller;
use crate::work::Work;

/// Rounds after which an answer is given up: a beam takes one for each mask.
const ROUNDS: usize = 512;

/// Bytes of all answers of one request.
const ANSWER_BYTES: usize = 64 << 20;

/// Answer a request: `{"inputs": input or [input, …], "parameters": {…}}`, or the fields of one input themselves.
pub(crate) async fn answer(
    task: &'static dyn Task,
    State(app): State<Arc<App>>,
    request: Parsed<Map<String, Value>>,
) -> Result<Response, ApiError> {
    let Parsed { mut value, served, begin } = request;
    let options = options(value.remove("parameters"))?;
    let (inputs, many) = match value.remove("inputs") {
        None => (vec![Value::Object(value)], false),
        Some(_) if !value.is_empty() => {
            let known = value.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(ApiError::Task { problem: format!("{known}: beside `inputs` there is `parameters` alone") });
        }
        Some(Value::Array(inputs)) => (inputs, true),
        Some(input) => (vec![input], false),
    };
    if inputs.is_empty() {
        return Err(ApiError::Empty { field: "inputs" });
    }
    inputs.iter().try_for_each(|input| known(task, input))?;
    if !served.engine.serves(task) {
        let remedy = "serve a model that was made for this task";
        return Err(ApiError::NotServed { model: served.name.clone(), wants: task.head().name(), remedy });
    }
    let mut work = Work::begin(&app, served, begin, inputs.len(), many)?;
    let characters = inputs.iter().map(characters).sum();
    let (most, may_cut) = (app.settings.max_queue_tokens, app.settings.auto_truncate);
    let encode = move |served: &Served, caller: &Caller<'_>| {
        let context = served.engine.context();
        let mut tokens = 0;
        let one = |input: &Value| {
            caller.waits()?;
            let job = task.encode(context, input, &options).map_err(fault)?;
            if job.cut && !may_cut {
                let limit = context.max_length;
                let problem = format!(
                    "an input is longer than the {limit} tokens that the model reads; shorten it, or start the server with --auto-truncate true"
                );
                return Err(ApiError::Invalid { field: "inputs", problem });
            }
            tokens += job.tokens();
            // What the queue would not take is not worth the rest of the tokenizing, nor its memory.
            if tokens > most { Err(queue::too_many(tokens, most)) } else { Ok(job) }
        };
        inputs.iter().map(one).collect::<Result<Vec<Job>, _>>()
    };
    let jobs = work.tokenize(characters, encode).await?;
    let mut answers = finish(&mut work, jobs).await?;
    if many { work.answer(answers).await } else { work.answer(answers.pop()).await }
}

/// Refuse an input with a value that the task would pass over.
pub(crate) fn known(task: &dyn Task, input: &Value) -> Result<(), ApiError> {
    let Some(name) = unknown(task.fields(), input) else { return Ok(()) };
    let fields = task.fields().iter().map(|f| f.name).collect::<Vec<_>>().join(", ");
    let problem = format!("unknown field {name:?}; {} takes {fields}, and options in `parameters` beside `inputs`", task.name());
    Err(ApiError::Task { problem })
}

/// Run jobs round by round to their answers, in their order.
async fn finish(work: &mut Work, jobs: Vec<Job>) -> Result<Vec<Value>, ApiError> {
    let mut answers = vec![Value::Null; jobs.len()];
    let mut answered = 0;
    let mut open: Vec<(usize, Job)> = jobs.into_iter().enumerate().collect();
    for _ in 0..ROUNDS {
        let counts: Vec<usize> = open.iter().map(|(_, job)| job.sequences.len()).collect();
        let sequences: Vec<Sequence> = open.iter_mut().flat_map(|(_, job)| std::mem::take(&mut job.sequences)).collect();
        let outputs = work.run(sequences).await?;
        let mut room = ANSWER_BYTES.saturating_sub(answered);
        let decode = move |_: &Served, caller: &Caller<'_>| {
            let mut outputs = outputs.into_iter();
            let step = |((at, job), count): ((usize, Job), usize)| -> Result<(usize, Step, usize), ApiError> {
                caller.waits()?;
                let own = outputs.by_ref().take(count).collect();
                let step = (job.finish)(own).map_err(fault)?;
                let length = if let Step::Answer(answer) = &step { bytes(answer) } else { 0 };
                let problem = || format!("the answers are longer than {} MB; send fewer inputs, or ask for less", ANSWER_BYTES >> 20);
                room = room.checked_sub(length).ok_or_else(|| ApiError::Task { problem: problem() })?;
                Ok((at, step, length))
            };
            open.into_iter().zip(counts).map(step).collect::<Result<Vec<_>, _>>()
        };
        let mut next = Vec::new();
        for (at, step, length) in work.tokenize(0, decode).await? {
            answered += length;
            match step {
                Step::Answer(answer) => answers[at] = answer,
                Step::Again(job) => next.push((at, job)),
            }
        }
        if next.is_empty() {
            return Ok(answers);
        }
        open = next;
    }
    Err(ApiError::Task { problem: format!("no answer after {ROUNDS} rounds; ask for less, such as fewer masks") })
}

/// What a request may ask for, within bounds that keep one request from taking the machine.
fn options(parameters: Option<Value>) -> Result<Options, ApiError> {
    let Some(parameters) = parameters else { return Ok(Options::default()) };
    let invalid = |problem: String| ApiError::Invalid { field: "parameters", problem };
    if !parameters.is_object() {
        return Err(invalid("an object is wanted".into()));
    }
    let options: Options = serde_json::from_value(parameters).map_err(|e| invalid(e.to_string()))?;
    // A beam is as wide as the answers that are wanted of it.
    let beam = options.joint == Some(true) || options.word_tokens.is_some_and(|n| n > 1);
    let bounds = [
        ("top_k", options.top_k, 1, if beam { 64 } else { 1000 }),
        ("beams", options.beams, 1, 64),
        ("word_tokens", options.word_tokens, 1, 8),
        ("max_answer_tokens", options.max_answer_tokens, 1, 512),
    ];
    for (name, value, least, most) in bounds {
        if let Some(value) = value
            && !(least..=most).contains(&value)
        {
            let with = if beam && name == "top_k" { " with joint or word_tokens" } else { "" };
            return Err(invalid(format!("{name} is {value}; from {least} to {most} is served{with}")));
        }
    }
    if options.targets.as_ref().is_some_and(|targets| targets.len() > 1000) {
        return Err(invalid("more than 1000 targets".into()));
    }
    Ok(options)
}

fn fault(error: TaskError) -> ApiError {
    match error {
        TaskError::Tokenizer(error) => ApiError::Tokenizer { problem: error.to_string() },
        error => ApiError::Task { problem: error.to_string() },
    }
}

/// About the bytes of an answer.
fn bytes(answer: &Value) -> usize {
    match answer {
        Value::String(text) => text.len() + 8,
        Value::Array(list) => list.iter().map(|v| bytes(v) + 1).sum(),
        Value::Object(map) => map.iter().map(|(key, v)| key.len() + bytes(v) + 8).sum(),
        _ => 8,
    }
}

/// Characters of all texts of an input.
fn characters(input: &Value) -> usize {
    match input {
        Value::String(text) => text.chars().count(),
        Value::Array(list) => list.iter().map(characters).sum(),
        Value::Object(map) => map.values().map(characters).sum(),
        _ => 0,
    }
}
