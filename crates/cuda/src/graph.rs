//! Commands as a CUDA graph: the stream captures them, and replays them by one call.
//!
//! A captured launch is a node whose parameters can be changed. Products are nodes of cuBLASLt's own, with their addresses in them.

use std::ffi::c_void;

use cudarc::driver::{result, sys};

use crate::CudaError;
use crate::device::{Gpu, failed};
use crate::driver::{Command, Launch};

/// A graph and where its launches are.
pub(crate) struct Graph {
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
    /// By command.
    nodes: Vec<Option<sys::CUgraphNode>>,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made in `captured`, destroyed once, when it does not run any more.
        unsafe {
            let _ = result::graph::exec_destroy(self.executable);
            let _ = result::graph::destroy(self.graph);
        }
    }
}

impl Gpu {
    /// Capture commands on the stream; `None` when one of them is not ready for that, or cannot be captured.
    pub(crate) fn captured(&self, commands: &[Command]) -> Result<Option<Graph>, CudaError> {
        // Modules are loaded and algorithms chosen before: both ask the device for more than a capture allows.
        for command in commands {
            match command {
                Command::Launch(launch) => drop(self.function(launch)?),
                Command::Multiply(product) if !self.is_planned(product) => return Ok(None),
                _ => {}
            }
        }
        // SAFETY: the stream lives as long as `self`, and nothing else is asked of it while the queue's lock is held. Relaxed: what other
        // threads and libraries do to other streams is none of this capture's business.
        unsafe { result::stream::begin_capture(self.stream, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED) }
            .map_err(failed("cuStreamBeginCapture"))?;
        let nodes: Result<Vec<_>, CudaError> = commands
            .iter()
            .map(|command| {
                // SAFETY: nothing is done now; who replays the graph vouches for the addresses.
                unsafe { self.perform(command) }?;
                command.launch().map(|_| self.last_node()).transpose()
            })
            .collect();
        // SAFETY: the capture was begun above, and is ended whatever happened.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        let (Ok(nodes), Ok(graph)) = (nodes, graph) else { return Ok(None) };
        if graph.is_null() {
            return Ok(None);
        }
        // SAFETY: the graph was just captured.
        match unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) } {
            Ok(executable) => Ok(Some(Graph { graph, executable, nodes })),
            Err(_) => {
                // SAFETY: as above, destroyed once.
                let _ = unsafe { result::graph::destroy(graph) };
                Ok(None)
            }
        }
    }

    /// The node that a capture made last.
    fn last_node(&self) -> Result<sys::CUgraphNode, CudaError> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        let (mut id, mut graph, mut nodes, mut count) = (0, std::ptr::null_mut(), std::ptr::null(), 0);
        // SAFETY: all are places for what the call gives.
        unsafe {
            sys::cuStreamGetCaptureInfo_v2(self.stream, &raw mut status, &raw mut id, &raw mut graph, &raw mut nodes, &raw mut count)
                .result()
                .map_err(failed("cuStreamGetCaptureInfo"))?;
            // What comes next depends on the last node alone: all goes to one stream.
            if count == 1 { Ok(*nodes) } else { Err(CudaError::Call { call: "cuStreamGetCaptureInfo", problem: format!("{count} nodes") }) }
        }
    }

    /// Change parameters and start a graph.
    ///
    /// # Safety
    /// As at [`crate::Driver::replay`].
    pub(crate) unsafe fn restart(&self, graph: &Graph, changes: &[(usize, &Launch)]) -> Result<(), CudaError> {
        for (command, launch) in changes {
            let Some(node) = graph.nodes[*command] else { continue };
            let mut parameters = [launch.parameters.as_ptr().cast_mut().cast::<c_void>()];
            let [x, y, z] = launch.grid;
            let node_parameters = sys::CUDA_KERNEL_NODE_PARAMS {
                func: self.function(launch)?,
                gridDimX: x,
                gridDimY: y,
                gridDimZ: z,
                blockDimX: launch.threads,
                blockDimY: 1,
                blockDimZ: 1,
                sharedMemBytes: launch.shared,
                kernelParams: parameters.as_mut_ptr(),
                extra: std::ptr::null_mut(),
                kern: std::ptr::null_mut(),
                ctx: std::ptr::null_mut(),
            };
            // SAFETY: the node is the graph's; the driver copies the parameters before the call returns.
            unsafe { sys::cuGraphExecKernelNodeSetParams_v2(graph.executable, node, &raw const node_parameters) }
                .result()
                .map_err(failed("cuGraphExecKernelNodeSetParams"))?;
        }
        // SAFETY: the caller's.
        unsafe { result::graph::launch(graph.executable, self.stream) }.map_err(failed("cuGraphLaunch"))
    }
}
