//! What the backend asks of a device, held back until somebody wants to know: what it asks for again and again becomes a graph, which the
//! device starts by one call.
//!
//! Commands wait in order and go out together. Such a stretch of commands is known by its shape: everything but the parameters of its
//! kernels. A shape that comes for the first time goes out call by call, at its second time the device captures it, from the third on the graph is
//! replayed, and kernels whose parameters are not those of last time (draws of dropout, the learning rate, the address of a small buffer) are
//! told the new ones before. So a graph does what its commands say, whatever they are, and nobody above needs to know of it. That the
//! same work has the same addresses each time is what the memory sees to ([`crate::memory`]).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::{Command, Launch};
use crate::{CudaError, Driver};

/// Commands that go out at once, at most: the device begins while the host prepares the next.
const MOST: usize = 512;

/// Commands that are worth a graph.
const LEAST: usize = 8;

/// Commands in graphs, at most; a node takes a few KiB.
const IN_GRAPHS: usize = 1 << 14;

/// Shapes that are remembered, at most.
const SHAPES: usize = 256;

/// The way to a device.
pub(crate) struct Queue {
    driver: Arc<dyn Driver>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: Vec<Command>,
    shapes: HashMap<u64, Known>,
    clock: u64,
}

/// What is known of a shape.
struct Known {
    state: State,
    used: u64,
}

enum State {
    Seen,
    /// A graph, and its commands as they were last time.
    Captured {
        graph: u64,
        last: Vec<Command>,
    },
    /// The device makes no graph of it.
    Never,
}

fn shape(commands: &[Command]) -> u64 {
    let mut hasher = DefaultHasher::new();
    commands.iter().for_each(|c| c.hash_shape(&mut hasher));
    commands.len().hash(&mut hasher);
    hasher.finish()
}

/// The launches whose parameters differ; `None` if anything else does.
fn changes<'a>(last: &[Command], now: &'a [Command]) -> Option<Vec<(usize, &'a Launch)>> {
    let mut changes = Vec::new();
    for (i, (last, now)) in last.iter().zip(now).enumerate() {
        if last == now {
            continue;
        }
        changes.push((i, now.launch().filter(|_| last.has_shape_of(now))?));
    }
    (last.len() == now.len()).then_some(changes)
}

impl Queue {
    pub(crate) fn new(driver: Arc<dyn Driver>) -> Arc<Self> {
        Arc::new(Self { driver, inner: Mutex::default() })
    }

    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the list as it is: every change is one step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ask for something, after all that was asked for before.
    ///
    /// # Safety
    /// As at [`Driver`], until the device has done it: memory that is given back in the meantime is only handed out to who asks later.
    pub(crate) unsafe fn ask(&self, command: Command) -> Result<(), CudaError> {
        let mut inner = self.inner();
        inner.waiting.push(command);
        if inner.waiting.len() < MOST { Ok(()) } else { self.send(&mut inner) }
    }

    /// Send what waits: what is asked of the driver itself from now on comes after it.
    pub(crate) fn flush(&self) -> Result<(), CudaError> {
        self.send(&mut self.inner())
    }

    fn send(&self, inner: &mut Inner) -> Result<(), CudaError> {
        let commands = std::mem::take(&mut inner.waiting);
        let work = commands.iter().filter(|c| c.is_work()).count();
        if work < LEAST {
            // SAFETY: who asked vouched for it.
            let sent = unsafe { self.run(&commands) };
            inner.reuse(commands);
            return sent;
        }
        let shape = shape(&commands);
        inner.clock += 1;
        let clock = inner.clock;
        let Some(known) = inner.shapes.get_mut(&shape) else {
            inner.shapes.insert(shape, Known { state: State::Seen, used: clock });
            self.forget(inner, SHAPES, IN_GRAPHS);
            // SAFETY: as above.
            let sent = unsafe { self.run(&commands) };
            inner.reuse(commands);
            return sent;
        };
        known.used = clock;
        match &mut known.state {
            State::Captured { graph, last } => {
                // SAFETY: as above; a graph with the parameters of these commands is these commands.
                let sent = unsafe {
                    match changes(last, &commands) {
                        Some(changes) => self.driver.replay(*graph, &changes),
                        None => return self.run(&commands), // another stretch with the same hash
                    }
                };
                let last = std::mem::replace(last, commands);
                inner.reuse(last);
                sent
            }
            // SAFETY: as above.
            State::Never => unsafe { self.run(&commands) },
            State::Seen => {
                match self.driver.capture(&commands)? {
                    Some(graph) => {
                        // SAFETY: as above.
                        let sent = unsafe { self.driver.replay(graph, &[]) };
                        known.state = State::Captured { graph, last: commands };
                        self.forget(inner, SHAPES, IN_GRAPHS);
                        sent
                    }
                    None => {
                        known.state = State::Never;
                        // SAFETY: as above.
                        unsafe { self.run(&commands) }
                    }
                }
            }
        }
    }

    /// Call by call.
    ///
    /// # Safety
    /// As at [`Driver`].
    unsafe fn run(&self, commands: &[Command]) -> Result<(), CudaError> {
        // SAFETY: the caller's.
        commands.iter().try_for_each(|c| unsafe { self.driver.run(c) })
    }

    /// Forget what was not used for the longest time, until no more is kept than this. The newest stays.
    fn forget(&self, inner: &mut Inner, shapes: usize, commands: usize) {
        let held = |inner: &Inner| inner.shapes.values().map(Known::commands).sum::<usize>();
        while inner.shapes.len() > 1 {
            let crowded = held(inner) > commands;
            if inner.shapes.len() <= shapes && !crowded {
                break;
            }
            let old =
                inner.shapes.iter().filter(|(_, k)| !crowded || k.commands() > 0).min_by_key(|(_, k)| k.used).map(|(s, k)| (*s, k.used));
            let Some((shape, used)) = old else { break };
            if used == inner.clock {
                break;
            }
            if let Some(Known { state: State::Captured { graph, .. }, .. }) = inner.shapes.remove(&shape) {
                // SAFETY: a graph of `capture`, given back once; the driver waits for it if it must.
                unsafe { self.driver.forget(graph) };
            }
        }
    }
}

impl Inner {
    /// Keep the list's memory for what comes next.
    fn reuse(&mut self, mut commands: Vec<Command>) {
        commands.clear();
        if self.waiting.is_empty() {
            self.waiting = commands;
        }
    }
}

impl Known {
    /// Commands in its graph.
    fn commands(&self) -> usize {
        if let State::Captured { last, .. } = &self.state { last.len() } else { 0 }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (_, known) in inner.shapes.drain() {
            if let State::Captured { graph, .. } = known.state {
                // SAFETY: as in `forget`.
                unsafe { self.driver.forget(graph) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cloze_tensor::Dtype;

    use super::*;
    use crate::driver::{Kernel, Matrix, Product};
    use crate::recorder::{Asked, Recorder};

    fn launch(name: &'static str, parameters: u8) -> Command {
        let kernel = Kernel { file: "file", name, variant: Dtype::F32.into() };
        Command::Launch(Launch { kernel, grid: [1, 2, 3], threads: 64, shared: 0, parameters: vec![parameters; 8] })
    }

    fn product(address: u64) -> Command {
        let matrix = |address| Matrix::new(address, Dtype::F32, 4, 4);
        Command::Multiply(Product::new(matrix(address), matrix(512), matrix(1024), 0.0))
    }

    /// A stretch: kernels with these parameters, a product, a copy.
    fn stretch(parameters: [u8; 8], address: u64) -> Vec<Command> {
        let mut commands: Vec<Command> = parameters.into_iter().map(|p| launch("kernel", p)).collect();
        commands.insert(4, product(address));
        commands.extend([Command::Copy { from: 1, to: 2, bytes: 3 }, Command::Renew { address: 512, bytes: 7 }]);
        commands
    }

    fn queue(recorder: &Arc<Recorder>) -> Arc<Queue> {
        Queue::new(Arc::clone(recorder) as Arc<dyn Driver>)
    }

    fn send(queue: &Queue, commands: &[Command]) {
        for command in commands {
            // SAFETY: this device touches no memory.
            unsafe { queue.ask(command.clone()) }.unwrap();
        }
        queue.flush().unwrap();
    }

    /// What was done since, in the order of the commands, however they went out.
    fn done(asked: &[Asked]) -> Vec<Command> {
        let commands = asked.iter().flat_map(|a| match a {
            Asked::Run(command) => vec![command.clone()],
            Asked::Replayed(_, _, commands) => commands.clone(),
            _ => vec![],
        });
        commands.collect()
    }

    fn replays(asked: &[Asked]) -> Vec<(u64, usize)> {
        asked.iter().filter_map(|a| if let Asked::Replayed(graph, changes, _) = a { Some((*graph, *changes)) } else { None }).collect()
    }

    #[test]
    fn what_comes_again_is_replayed_and_does_what_its_commands_say() {
        let recorder = Arc::new(Recorder::default());
        let queue = queue(&recorder);
        let mut expected = Vec::new();
        for parameters in [[1; 8], [1; 8], [1; 8], [1, 1, 9, 1, 1, 1, 8, 1], [1, 1, 9, 1, 1, 1, 8, 1], [1; 8]] {
            let commands = stretch(parameters, 256);
            send(&queue, &commands);
            expected.extend(commands);
        }
        let asked = recorder.asked();
        assert_eq!(done(&asked), expected);
        // Once call by call, then captured; from then on only what is not as it was last time is told.
        assert_eq!(replays(&asked), [(0, 0), (0, 0), (0, 2), (0, 0), (0, 2)]);
    }

    #[test]
    fn another_product_kernel_or_length_is_another_shape() {
        let recorder = Arc::new(Recorder::default());
        let queue = queue(&recorder);
        let other = |change: fn(&mut Vec<Command>)| {
            let mut commands = stretch([1; 8], 256);
            change(&mut commands);
            commands
        };
        let all = [
            stretch([1; 8], 256),
            stretch([1; 8], 2560),
            other(|c| c[0] = launch("another", 1)),
            other(|c| c.push(launch("kernel", 1))),
            other(|c| c.swap(3, 4)),
            other(|c| c[9] = Command::Copy { from: 1, to: 2, bytes: 4 }),
            other(|c| c[9] = Command::Clear { address: 1, bytes: 2 }),
        ];
        for round in 0..3 {
            for (i, commands) in all.iter().enumerate() {
                let before = recorder.asked().len();
                send(&queue, commands);
                let asked = recorder.asked().split_off(before);
                assert_eq!(done(&asked), *commands);
                let expected = if round == 0 { vec![] } else { vec![(i as u64, 0)] };
                assert_eq!(replays(&asked), expected, "round {round}, {i}");
            }
        }
    }

    #[test]
    fn little_work_goes_out_call_by_call_and_much_in_stretches() {
        let recorder = Arc::new(Recorder::default());
        let queue = queue(&recorder);
        for _ in 0..4 {
            send(&queue, &stretch([1; 8], 256)[..LEAST - 1]);
        }
        assert!(replays(&recorder.asked()).is_empty());
        let before = recorder.asked().len();
        for _ in 0..MOST - 1 {
            // SAFETY: this device touches no memory.
            unsafe { queue.ask(launch("kernel", 1)) }.unwrap();
        }
        assert_eq!(recorder.asked().len(), before, "nothing goes out before somebody wants to know");
        // SAFETY: as above.
        unsafe { queue.ask(launch("kernel", 1)) }.unwrap();
        assert_eq!(done(&recorder.asked()[before..]).len(), MOST);
    }

    #[test]
    fn a_device_without_graphs_is_asked_once() {
        let recorder = Arc::new(Recorder::without_graphs());
        let queue = queue(&recorder);
        for _ in 0..4 {
            send(&queue, &stretch([1; 8], 256));
        }
        assert_eq!(done(&recorder.asked()).len(), 4 * stretch([1; 8], 256).len());
        assert!(replays(&recorder.asked()).is_empty());
    }

    #[test]
    fn what_was_not_used_for_long_is_forgotten() {
        let recorder = Arc::new(Recorder::default());
        let queue = queue(&recorder);
        let commands = |i: u64| stretch([1; 8], 256 * (i + 1));
        let len = commands(0).len();
        for i in 0..4 {
            (0..3).for_each(|_| send(&queue, &commands(i)));
        }
        send(&queue, &commands(0));
        // Room for two graphs: the first was used last, the fourth before it.
        queue.forget(&mut queue.inner(), SHAPES, 2 * len);
        let forgotten = |recorder: &Recorder| -> Vec<u64> {
            recorder.asked().iter().filter_map(|a| if let Asked::Forgotten(graph) = a { Some(*graph) } else { None }).collect()
        };
        assert_eq!(forgotten(&recorder), [1, 2]);
        // What was forgotten is seen anew.
        let before = recorder.asked().len();
        send(&queue, &commands(1));
        assert!(replays(&recorder.asked()[before..]).is_empty());
        send(&queue, &commands(0));
        assert_eq!(replays(&recorder.asked()[before..]), [(0, 0)]);
        // Shapes that were only seen are bounded, too.
        for i in 10..10 + 2 * SHAPES as u64 {
            send(&queue, &commands(i));
        }
        assert!(queue.inner().shapes.len() <= SHAPES);
        drop(queue);
        let mut forgotten = forgotten(&recorder);
        forgotten.sort_unstable();
        assert_eq!(forgotten, [0, 1, 2, 3]);
    }
}
