//! Packing encodings of any lengths into batches of bounded size, for fine-tuning and prediction.

use std::collections::BTreeMap;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::tokenizer::Encoding;

/// A batch and where its sequences stood in the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// The packed sequences, without masks or labels.
    pub batch: Batch,
    /// Input index of each sequence. `[S]`
    pub order: Vec<usize>,
}

/// Share out sequences of these lengths to batches of at most `tokens` tokens: the input indices of each batch.
///
/// Best fit, longest first: each goes to the fullest batch that still has room. Batches come out fullest first where
/// opened first, and the result depends on nothing but the lengths.
pub fn pack_lengths(lengths: &[usize], tokens: usize) -> Result<Vec<Vec<usize>>> {
    if let Some((index, &length)) = lengths.iter().enumerate().find(|&(_, &length)| length > tokens) {
        return Err(Error::SequenceTooLong { index, tokens: length, limit: tokens });
    }
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i])); // stable: equal lengths stay in input order
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut by_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in order {
        let length = lengths[i];
        let fit = by_room.range(length..).next().map(|(&room, _)| room);
        let (batch, room) = match fit {
            Some(room) => {
                let list = by_room.get_mut(&room);
                let batch = list.and_then(|batches| batches.pop());
                if by_room.get(&room).is_some_and(Vec::is_empty) {
                    by_room.remove(&room);
                }
                (batch.unwrap_or(0), room)
            }
            None => {
                batches.push(Vec::new());
                (batches.len() - 1, tokens)
            }
        };
        batches[batch].push(i);
        by_room.entry(room - length).or_default().push(batch);
    }
    Ok(batches)
}

/// Pack encodings into batches of at most `tokens` tokens; every token is in exactly one batch.
pub fn pack(encodings: &[Encoding], tokens: usize) -> Result<Vec<PackedBatch>> {
    let lengths: Vec<usize> = encodings.iter().map(Encoding::len).collect();
    let batches = pack_lengths(&lengths, tokens)?;
    let fill = |order: Vec<usize>| {
        let mut batch = Batch::default();
        for &i in &order {
            batch.push(&encodings[i].ids, &encodings[i].token_type_ids);
        }
        PackedBatch { batch, order }
    };
    Ok(batches.into_iter().map(fill).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_token_is_lost(lengths in proptest::collection::vec(0usize..40, 0..200), tokens in 40usize..200) {
            let mut next = 0u32;
            let encodings: Vec<Encoding> = lengths.iter().map(|&length| {
                let ids: Vec<u32> = (next..next + length as u32).collect();
                next += length as u32;
                Encoding { token_type_ids: vec![0; ids.len()], ids, ..Encoding::default() }
            }).collect();
            let packed = pack(&encodings, tokens).unwrap();
            let mut seen = vec![false; encodings.len()];
            for PackedBatch { batch, order } in &packed {
                prop_assert!(batch.tokens() <= tokens);
                prop_assert_eq!(batch.sequences.count(), order.len());
                for (range, &i) in batch.sequences.ranges().zip(order) {
                    prop_assert!(!std::mem::replace(&mut seen[i], true));
                    prop_assert_eq!(&batch.input_ids[range], &encodings[i].ids[..]);
                }
            }
            prop_assert!(seen.into_iter().all(|seen| seen));
            // Best fit leaves at most one batch half empty.
            prop_assert!(packed.iter().filter(|p| 2 * p.batch.tokens() < tokens).count() <= 1);
        }
    }

    #[test]
    fn too_long_names_the_sequence() {
        let error = pack_lengths(&[3, 9, 2], 8).unwrap_err();
        assert!(matches!(error, Error::SequenceTooLong { index: 1, tokens: 9, limit: 8 }), "{error}");
    }
}
