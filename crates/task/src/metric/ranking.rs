//! Figures of rankings: reciprocal rank, recall, average precision, nDCG (scikit-learn's `ndcg_score` with linear gains).

use std::collections::BTreeMap;

/// 1 / rank of the first hit among the first `k`; 0 without one. `hits` stand in ranked order.
pub fn reciprocal_rank(hits: &[bool], k: usize) -> f64 {
    hits.iter().take(k).position(|h| *h).map_or(0.0, |at| 1.0 / (at + 1) as f64)
}

/// Of all that is relevant, the share among the first `k`.
pub fn recall(hits: &[bool], relevant: usize, k: usize) -> f64 {
    let found = hits.iter().take(k).filter(|h| **h).count();
    if relevant > 0 { found as f64 / relevant as f64 } else { 0.0 }
}

/// The mean precision at the places of the hits, over all that is relevant.
pub fn average_precision(hits: &[bool], relevant: usize) -> f64 {
    let (mut found, mut sum) = (0, 0.0);
    for (at, _) in hits.iter().enumerate().filter(|(_, h)| **h) {
        found += 1;
        sum += f64::from(found) / (at + 1) as f64;
    }
    if relevant > 0 { sum / relevant as f64 } else { 0.0 }
}

/// Σ gain / log₂(place + 1) over the first `k`, as a share of the best order's. `gains` stand in ranked order.
pub fn ndcg(gains: &[f64], k: usize) -> f64 {
    let dcg = |g: &[f64]| g.iter().take(k).enumerate().map(|(i, g)| g / ((i + 2) as f64).log2()).sum::<f64>();
    let mut ideal = gains.to_vec();
    ideal.sort_by(|a, b| b.total_cmp(a));
    let best = dcg(&ideal);
    if best > 0.0 { dcg(gains) / best } else { 0.0 }
}

/// Means over queries, each the hits of a full ranking.
pub fn figures(queries: &[Vec<bool>]) -> BTreeMap<String, f64> {
    let n = queries.len().max(1) as f64;
    let mean = |f: &dyn Fn(&[bool], usize) -> f64| queries.iter().map(|h| f(h, h.iter().filter(|x| **x).count())).sum::<f64>() / n;
    let gains = |h: &[bool]| h.iter().map(|x| f64::from(u8::from(*x))).collect::<Vec<_>>();
    [
        ("mrr@10", mean(&|h, _| reciprocal_rank(h, 10))),
        ("recall@1", mean(&|h, r| recall(h, r, 1))),
        ("recall@10", mean(&|h, r| recall(h, r, 10))),
        ("map", mean(&|h, r| average_precision(h, r))),
        ("ndcg@10", mean(&|h, _| ndcg(&gains(h), 10))),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

/// The order of scores, the best first; equal ones in their own order.
pub fn order(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}
