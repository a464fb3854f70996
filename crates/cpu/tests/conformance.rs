//! The contract's own suite against this backend: every level of the machine, both dtypes, one thread and two.

use cloze_cpu::{Cpu, CpuOptions, Level};
use cloze_tensor::Dtype;
use cloze_tensor::conformance::{compare_all, compare_optimizers, frozen_is_left_out, recompute_equals_stored};

fn backends() -> impl Iterator<Item = (String, Cpu)> {
    Level::available().into_iter().flat_map(|level| {
        [1, 2].map(|threads| {
            let cpu = Cpu::new(CpuOptions { threads: Some(threads), level: Some(level) });
            (format!("{} on {threads} threads", level.name()), cpu)
        })
    })
}

fn check(what: impl Fn(&Cpu) -> Vec<String>) {
    let wrong: Vec<String> =
        backends().flat_map(|(name, cpu)| what(&cpu).into_iter().map(move |wrong| format!("{name}: {wrong}"))).collect();
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn ops_agree_with_the_reference_in_f32() {
    check(|cpu| compare_all(cpu, Dtype::F32));
}

#[test]
fn ops_agree_with_the_reference_in_bf16() {
    check(|cpu| compare_all(cpu, Dtype::Bf16));
}

#[test]
fn optimizers_agree_with_the_reference() {
    check(compare_optimizers);
}

#[test]
fn recomputed_activations_give_the_same_gradients() {
    check(|cpu| [Dtype::F32, Dtype::Bf16].into_iter().flat_map(|dtype| recompute_equals_stored(cpu, dtype)).collect());
}

#[test]
fn frozen_parameters_take_no_gradients() {
    check(|cpu| [Dtype::F32, Dtype::Bf16].into_iter().flat_map(|dtype| frozen_is_left_out(cpu, dtype)).collect());
}

#[test]
fn nothing_stays_in_use() {
    let cpu = Cpu::default();
    compare_all(&cpu, Dtype::F32);
    assert_eq!(cpu.memory_stats().current, 0, "every buffer went back");
}
