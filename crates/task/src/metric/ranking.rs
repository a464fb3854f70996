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

/// The figures of a ranking, as [`figures`] names them.
const NAMES: [&str; 5] = ["mrr@10", "recall@1", "recall@10", "map", "ndcg@10"];

fn of_query(hits: &[bool]) -> [f64; 5] {
    let relevant = hits.iter().filter(|h| **h).count();
    let gains: Vec<f64> = hits.iter().map(|h| f64::from(u8::from(*h))).collect();
    [reciprocal_rank(hits, 10), recall(hits, relevant, 1), recall(hits, relevant, 10), average_precision(hits, relevant), ndcg(&gains, 10)]
}

/// Means over queries, each the hits of a full ranking.
pub fn figures(queries: &[Vec<bool>]) -> BTreeMap<String, f64> {
    mean(&queries.iter().map(|hits| of_query(hits)).collect::<Vec<_>>())
}

/// The same where `hits` makes the ranking of the query of that number: on all cores, and only the rankings at work are kept, since there may be
/// as many candidates as queries.
pub fn of_queries(count: usize, hits: impl Fn(usize) -> Vec<bool> + Sync) -> BTreeMap<String, f64> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(count.div_ceil(32)).max(1);
    let mut found = vec![[0.0; 5]; count];
    std::thread::scope(|scope| {
        let hits = &hits;
        let share = count.div_ceil(threads).max(1);
        for (part, place) in found.chunks_mut(share).enumerate() {
            scope.spawn(move || place.iter_mut().enumerate().for_each(|(i, f)| *f = of_query(&hits(part * share + i))));
        }
    });
    mean(&found)
}

fn mean(queries: &[[f64; 5]]) -> BTreeMap<String, f64> {
    let n = queries.len().max(1) as f64;
    let of = |(i, name): (usize, &str)| (name.to_owned(), queries.iter().map(|q| q[i]).sum::<f64>() / n);
    NAMES.into_iter().enumerate().map(of).collect()
}

/// The order of scores, the best first; equal ones in their own order.
pub fn order(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}
