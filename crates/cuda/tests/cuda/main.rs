//! The backend's checks, each on two devices: `emulated`, the text of the kernels compiled as C++ and run on the host
//! (skipped where there is no C++ compiler), and `gpu` (skipped where there is no CUDA device).
//!
//! `cargo test -p cloze-cuda --test cuda on_the_emulated_device::` or `on_a_gpu::` runs one of them.
#![allow(unsafe_code)] // the emulated device works on addresses, as a real one does

mod ahead;
mod attention;
mod conformance;
mod emulated;
mod graphs;
mod invariance;
mod kernels;
mod models;
mod training;

use std::sync::OnceLock;

use cloze_cuda::Cuda;

/// The first GPU of this machine.
fn gpu() -> Option<Cuda> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    match Cuda::open(0) {
        Ok(cuda) => Some(cuda),
        Err(e) => {
            // A machine without a driver has no device; where there is one, what is missing is a failure.
            let reason = REASON.get_or_init(|| (Cuda::count() > 0).then(|| e.to_string()));
            assert!(reason.is_none(), "a CUDA device is there, but cannot be used: {}", reason.as_deref().unwrap_or_default());
            println!("skipped: no CUDA device");
            None
        }
    }
}

/// Each check on both devices.
macro_rules! checks {
    ($($module:ident :: $check:ident),* $(,)?) => {
        mod on_the_emulated_device {
            $(#[test]
            fn $check() {
                if let Some(device) = crate::emulated::open() {
                    crate::$module::$check(&device);
                }
            })*
        }
        mod on_a_gpu {
            $(#[test]
            fn $check() {
                if let Some(device) = crate::gpu() {
                    crate::$module::$check(&device);
                }
            })*
        }
    };
}

checks!(
    conformance::ops_agree_with_the_reference_in_f32,
    conformance::ops_agree_with_the_reference_in_bf16,
    conformance::optimizers_agree_with_the_reference,
    conformance::recomputed_activations_give_the_same_gradients,
    conformance::dropout_is_the_function_of_the_host,
    conformance::muon_takes_bf16_products,
    conformance::a_step_is_judged_as_the_host_would,
    attention::agrees_with_the_plain_loops,
    attention::large_scores_do_not_overflow,
    attention::a_sequence_alone_has_the_bits_of_a_batch,
    models::tiny_models_equal_pytorch,
    models::bf16_stays_close,
    training::the_first_losses_are_those_of_the_cpu,
    training::a_second_run_has_the_same_bits,
    training::a_run_goes_on_where_it_was_and_on_another_device,
    ahead::values_arrive_however_many_are_on_their_way,
    ahead::steps_ahead_have_the_bits_of_steps_in_turn,
    ahead::after_a_step_that_is_no_number_nothing_changes,
    training::a_rehearsal_takes_the_memory_of_the_step,
);
