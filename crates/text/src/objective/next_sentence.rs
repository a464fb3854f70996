//! Next-sentence prediction (Devlin et al. 2019, section 3.1): is the second segment the one that follows?

use std::ops::Range;

use super::Draws;
use crate::dataset::Dataset;

/// Whole sentences of a random other document that fit `room` tokens, as (shard, token range): the false second segment.
///
/// It is filled as the true one is, so that length and sentence ends give nothing away. The first sentence is cut if it
/// alone is too long. The dataset has at least two documents.
pub(crate) fn continuation_elsewhere(dataset: &Dataset, document: u64, room: usize, draws: &mut Draws) -> (usize, Range<u32>) {
    let mut other = draws.below(dataset.documents() - 1);
    other += u64::from(other >= document);
    let (shard, local) = dataset.locate(other);
    let (starts, documents) = (dataset.shards()[shard].sentence_starts(), dataset.shards()[shard].document_starts());
    let sentences = documents.get(local)..documents.get(local + 1);
    let first = sentences.start + draws.below(u64::from((sentences.end - sentences.start).max(1))) as u32;
    let start = starts.get(first as usize);
    let mut end = start;
    for sentence in first..sentences.end {
        let next = starts.get(sentence as usize + 1);
        if (next - start) as usize > room {
            break;
        }
        end = next;
    }
    if end == start && first < sentences.end {
        end = starts.get(first as usize + 1).min(start + room as u32);
    }
    (shard, start..end)
}
