//! The bounded queue between requests and the batcher.
//!
//! A request hands in all its sequences at once, and they enter together or not at all. Each then waits on its own, so that a large
//! request may be spread over batches and a small one share the batch of others. A request whose client has gone is a closed reply
//! channel: its sequences are dropped when they come up, before anything is computed for them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cloze::task::{Output, Sequence};
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::error::ApiError;
use crate::metrics::Metrics;

/// The outputs of a request's sequences, in their order.
#[derive(Debug)]
pub(crate) struct Done {
    /// One output a sequence.
    pub(crate) outputs: Vec<Output>,
    /// From entering the queue to the first batch.
    pub(crate) queue: Duration,
    /// From the first batch to the last output.
    pub(crate) inference: Duration,
}

/// What a request gets back.
pub(crate) type Reply = oneshot::Receiver<Result<Done, ApiError>>;

/// The sequences of one request.
pub(crate) struct Group {
    arrived: Instant,
    state: Mutex<Progress>,
}

struct Progress {
    outputs: Vec<Option<Output>>,
    left: usize,
    started: Option<Instant>,
    reply: Option<oneshot::Sender<Result<Done, ApiError>>>,
}

impl Group {
    fn state(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody waits for it any more.
    fn abandoned(&self) -> bool {
        self.state().reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Its first sequence goes into a batch at `now`.
    pub(crate) fn start(&self, now: Instant) {
        self.state().started.get_or_insert(now);
    }

    /// One output more; the last one answers the request.
    pub(crate) fn put(&self, slot: usize, output: Output) {
        let mut state = self.state();
        if state.outputs[slot].replace(output).is_none() {
            state.left -= 1;
        }
        if state.left == 0
            && let Some(reply) = state.reply.take()
        {
            let started = state.started.unwrap_or(self.arrived);
            let outputs = state.outputs.drain(..).flatten().collect();
            let done = Done { outputs, queue: started - self.arrived, inference: started.elapsed() };
            reply.send(Ok(done)).ok(); // the client may have gone
        }
    }

    /// The request cannot be answered.
    pub(crate) fn fail(&self, error: ApiError) {
        if let Some(reply) = self.state().reply.take() {
            reply.send(Err(error)).ok(); // the client may have gone
        }
    }
}

/// A sequence that waits.
pub(crate) struct Entry {
    pub(crate) sequence: Sequence,
    pub(crate) slot: usize,
    pub(crate) group: Arc<Group>,
}

/// Sequences of one loaded model.
struct Lane {
    engine: Arc<dyn Engine>,
    waiting: VecDeque<Entry>,
}

#[derive(Default)]
struct State {
    lanes: Vec<Lane>,
    tokens: usize,
    entries: usize,
    closed: bool,
}

/// Sequences of one model that run together.
pub(crate) struct Batch {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) tokens: usize,
}

/// More tokens than the queue could ever take.
pub(crate) fn too_many(tokens: usize, most: usize) -> ApiError {
    let problem = format!("they make {tokens} tokens at once; at most {most} are taken: ask for less, or raise --max-queue-tokens");
    ApiError::Invalid { field: "inputs", problem }
}

/// How far behind the head of a lane a sequence may stand and still fill the room that is left in a batch.
const LOOK_AHEAD: usize = 256;

/// The queue.
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    max_tokens: usize,
    max_entries: usize,
    metrics: Arc<Metrics>,
}

impl Queue {
    /// A queue of at most `max_tokens` tokens and `max_entries` sequences.
    pub(crate) fn new(max_tokens: usize, max_entries: usize, metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), max_tokens, max_entries, metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hand in the sequences of a request, all or none.
    pub(crate) fn push(&self, engine: &Arc<dyn Engine>, sequences: Vec<Sequence>) -> Result<Reply, ApiError> {
        let (reply, receiver) = oneshot::channel();
        let count = sequences.len();
        if count == 0 {
            let none = Done { outputs: Vec::new(), queue: Duration::ZERO, inference: Duration::ZERO };
            reply.send(Ok(none)).ok(); // the receiver is in our hands
            return Ok(receiver);
        }
        let tokens: usize = sequences.iter().map(Sequence::len).sum();
        let progress = Progress { outputs: vec![None; count], left: count, started: None, reply: Some(reply) };
        let group = Arc::new(Group { arrived: Instant::now(), state: Mutex::new(progress) });
        let mut state = self.state();
        if state.closed {
            return Err(ApiError::Unhealthy { problem: "the server is shutting down" });
        }
        if tokens > self.max_tokens {
            return Err(too_many(tokens, self.max_tokens));
        }
        // An empty queue takes any number of sequences: one input may make more than a client may send.
        if state.tokens + tokens > self.max_tokens || (state.entries > 0 && state.entries + count > self.max_entries) {
            return Err(ApiError::Overloaded { full: "its queue is full" });
        }
        state.tokens += tokens;
        state.entries += count;
        let at = state.lanes.iter().position(|lane| Arc::ptr_eq(&lane.engine, engine)).unwrap_or_else(|| {
            state.lanes.push(Lane { engine: Arc::clone(engine), waiting: VecDeque::new() });
            state.lanes.len() - 1
        });
        let entry = |(slot, sequence)| Entry { sequence, slot, group: Arc::clone(&group) };
        state.lanes[at].waiting.extend(sequences.into_iter().enumerate().map(entry));
        self.metrics.queue_size(state.entries);
        drop(state);
        self.filled.notify_one();
        Ok(receiver)
    }

    /// The next batch: of the model whose sequence has waited longest, from its head on, at most `tokens` tokens (a longer
    /// sequence goes alone). Waits while the queue is empty; `None` when it is closed and empty.
    pub(crate) fn next(&self, tokens: usize) -> Option<Batch> {
        let mut state = self.state();
        loop {
            state.drop_abandoned(&self.metrics);
            if let Some(batch) = state.take(tokens) {
                self.metrics.queue_size(state.entries);
                return Some(batch);
            }
            self.metrics.queue_size(state.entries);
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No more requests; what waits is still answered.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.filled.notify_all();
    }

    /// Sequences that wait.
    pub(crate) fn len(&self) -> usize {
        self.state().entries
    }
}

impl State {
    /// Drop the sequences of requests that nobody waits for.
    fn drop_abandoned(&mut self, metrics: &Metrics) {
        let (mut entries, mut tokens) = (0, 0);
        for lane in &mut self.lanes {
            lane.waiting.retain(|entry| {
                let keep = !entry.group.abandoned();
                if !keep {
                    entries += 1;
                    tokens += entry.sequence.len();
                }
                keep
            });
        }
        self.entries -= entries;
        self.tokens -= tokens;
        self.lanes.retain(|lane| !lane.waiting.is_empty());
        metrics.dropped(entries);
    }

    fn take(&mut self, room: usize) -> Option<Batch> {
        let oldest = |lane: &Lane| lane.waiting.front().map(|entry| entry.group.arrived);
        let lane = self.lanes.iter_mut().min_by_key(|lane| oldest(lane))?;
        let first = lane.waiting.pop_front()?;
        let mut tokens = first.sequence.len();
        let mut entries = vec![first];
        let mut passed = VecDeque::new();
        while tokens < room
            && passed.len() < LOOK_AHEAD
            && let Some(entry) = lane.waiting.pop_front()
        {
            if tokens + entry.sequence.len() <= room {
                tokens += entry.sequence.len();
                entries.push(entry);
            } else {
                passed.push_back(entry);
            }
        }
        while let Some(entry) = passed.pop_back() {
            lane.waiting.push_front(entry);
        }
        let engine = Arc::clone(&lane.engine);
        self.entries -= entries.len();
        self.tokens -= tokens;
        Some(Batch { engine, entries, tokens })
    }
}
