//! Pearson's and Spearman's correlation, equal to SciPy's.

use crate::task::Figures;

/// Pearson's r; 0 where one side does not vary.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len()) as f64;
    let mean = |x: &[f64]| x.iter().sum::<f64>() / n.max(1.0);
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - ma) * (y - mb);
        aa += (x - ma) * (x - ma);
        bb += (y - mb) * (y - mb);
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

/// Ranks from 1; equal values share the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let mut end = start + 1;
        while end < order.len() && values[order[end]] == values[order[start]] {
            end += 1;
        }
        order[start..end].iter().for_each(|&i| ranks[i] = (start + end + 1) as f64 / 2.0);
        start = end;
    }
    ranks
}

/// Spearman's ρ: Pearson's r of the ranks.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

/// Both, and the root of the mean squared error.
pub fn figures(gold: &[f64], found: &[f64]) -> Figures {
    let squares: f64 = gold.iter().zip(found).map(|(g, f)| (g - f) * (g - f)).sum();
    let values =
        [("pearson", pearson(gold, found)), ("spearman", spearman(gold, found)), ("rmse", (squares / gold.len().max(1) as f64).sqrt())];
    Figures { values: values.map(|(k, v)| (k.to_owned(), v)).into(), ..Figures::default() }
}
