//! The contract's own suite.

use cloze_cuda::Cuda;
use cloze_tensor::conformance::{compare_all, compare_optimizers, recompute_equals_stored};
use cloze_tensor::ops::elementwise::ElementwiseOp;
use cloze_tensor::ops::optimizer::{Muon, OptimizerOp, Scale};
use cloze_tensor::plain::Plain;
use cloze_tensor::random::{Key, Stream};
use cloze_tensor::{Backend, Dropout, Dtype, Param, Storage, Tensor};

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

pub(crate) fn ops_agree_with_the_reference_in_f32(device: &Cuda) {
    none(compare_all(device, Dtype::F32));
    device.trim_memory();
    assert_eq!(device.memory_stats().current, 0, "every buffer went back");
}

pub(crate) fn ops_agree_with_the_reference_in_bf16(device: &Cuda) {
    none(compare_all(device, Dtype::Bf16));
}

pub(crate) fn optimizers_agree_with_the_reference(device: &Cuda) {
    none(compare_optimizers(device));
}

pub(crate) fn recomputed_activations_give_the_same_gradients(device: &Cuda) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        none(recompute_equals_stored(device, dtype));
    }
}

pub(crate) fn dropout_is_the_function_of_the_host(device: &Cuda) {
    for probability in [0.1, 0.5, 0.999] {
        let op = Dropout { probability, key: Key::new(0xfedc_ba98_7654_3210, Stream::Dropout, 1 << 40, 77) };
        let (rows, cols) = (37, 29);
        let x = Tensor::from_host(device, Dtype::F32, rows, cols, &vec![1.0; rows * cols]);
        let mut y = Tensor::new(device, Dtype::F32, rows, cols);
        device.dropout(&op, x.view(), y.view_mut());
        for (i, y) in y.to_host(device).iter().enumerate() {
            assert_eq!(y.to_bits(), op.factor(i as u64).to_bits(), "element {i} at {probability}");
        }
    }
}

/// Newton–Schulz in bf16, as its authors do it: close to the reference in f64, as far as eight bits go.
pub(crate) fn muon_takes_bf16_products(device: &Cuda) {
    fn weights<B: Backend>(backend: &B, matrices: &[Param], len: usize) -> Vec<f32> {
        let draws = |place| {
            let key = Key::new(8, Stream::Sampling, 0, place);
            let mut buffer = backend.zeros(Dtype::F32, len);
            backend.write(&mut buffer, 0, &(0..len as u64).map(|i| key.normal(i)).collect::<Vec<_>>());
            buffer
        };
        let (mut weights, gradients, mut momentum) = (backend.zeros(Dtype::F32, len), draws(1), draws(2));
        let op = Muon { lr: 1.0, momentum: 0.9, weight_decay: 0.0, gradient_scale: Scale::Known(0.5), products: Dtype::Bf16 };
        backend.muon(&op, matrices, &mut weights, &gradients, &mut momentum);
        backend.read(&weights, 0..len)
    }
    let matrices = [Param { offset: 0, rows: 24, cols: 40 }, Param { offset: 960, rows: 40, cols: 8 }];
    let (ours, reference) = (weights(device, &matrices, 1280), weights(&Plain, &matrices, 1280));
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let error = norm(&mut ours.iter().zip(&reference).map(|(a, b)| a - b)) / norm(&mut reference.iter().copied());
    assert!(error < 0.03, "{error}");
}

/// Norm, factor and culprit are those that the host would find; a gate that is shut shuts the next.
pub(crate) fn a_step_is_judged_as_the_host_would(device: &Cuda) {
    let (len, range) = (20_000, 5..19_997);
    let key = Key::new(9, Stream::Sampling, 0, 0);
    let values: Vec<f32> = (0..len as u64).map(|i| key.normal(i)).collect();
    let buffer = |changes: &[(usize, f32)]| {
        let mut values = values.clone();
        changes.iter().for_each(|&(at, value)| values[at] = value);
        let mut buffer = device.alloc(Dtype::F32, len);
        device.write(&mut buffer, 0, &values);
        buffer
    };
    let losses = |last: f32| Tensor::from_host(device, Dtype::F32, 3, 2, &[1.0, 0.0, 0.5, 1.0, last, 0.0]);
    let (fine, wrong, gradients) = (losses(2.0), losses(f32::INFINITY), buffer(&[(0, f32::NAN)]));
    let squares = device.sum_of_squares(&gradients, range.clone());
    for clip in [0.0, 0.5, 2.0 * squares.sqrt()] {
        let judged = device.judge(&gradients, range.clone(), &[fine.view(), fine.view()], clip, None);
        let expected = if clip > 0.0 && squares.sqrt() > clip { clip / squares.sqrt() } else { 1.0 };
        assert_eq!(device.read(&judged.gate, 4..5), [expected as f32], "clipped at {clip}");
        let verdict = judged.verdict.get();
        assert_eq!((verdict.squares.to_bits(), verdict.culprit, verdict.update), (squares.to_bits(), None, true));
        let next = device.judge(&gradients, range.clone(), &[], clip, Some(&judged.gate));
        assert!(next.verdict.get().update);
    }
    for (at, value) in [(5, f32::NAN), (8196, f32::INFINITY), (8197, f32::NAN), (12_345, f32::NEG_INFINITY), (19_996, f32::NAN)] {
        let judged = device.judge(&buffer(&[(at, value), (19_996, f32::NAN)]), range.clone(), &[fine.view()], 1.0, None);
        let verdict = judged.verdict.get();
        assert_eq!((verdict.culprit, verdict.update), (Some(at - 5), false));
        let next = device.judge(&gradients, range.clone(), &[fine.view()], 1.0, Some(&judged.gate)).verdict.get();
        assert_eq!((next.squares.to_bits(), next.culprit, next.update), (squares.to_bits(), None, false));
    }
    let verdict = device.judge(&gradients, range, &[fine.view(), wrong.view()], 1.0, None).verdict.get();
    assert_eq!((verdict.squares.to_bits(), verdict.culprit, verdict.update), (squares.to_bits(), None, false));
}
