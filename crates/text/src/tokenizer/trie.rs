//! Longest match over bytes: a double-array trie with two roots, one for pieces that start a word
//! and one for pieces that continue it.
//!
//! The child of node `s` for byte `b` lies at `base[s] ^ b` and is real when its `check` is `s`
//! (Aoe 1989; the XOR form keeps all children of a node within one block of 256 slots).

const FREE: u32 = u32::MAX;
const ROOT: u32 = u32::MAX - 1;
const NO_VALUE: u32 = u32::MAX;
/// Free slots tried for a node with several children before the table grows by a block.
const TRIES: usize = 64;

#[derive(Clone, Copy)]
struct Slot {
    base: u32,
    check: u32,
    value: u32,
}

const EMPTY: Slot = Slot { base: 0, check: FREE, value: NO_VALUE };

/// Where a longest match starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Root {
    Word = 0,
    Continuation = 1,
}

#[derive(Clone)]
pub(crate) struct Trie {
    slots: Vec<Slot>,
}

impl Trie {
    /// `word` and `continuation`: keys without their mark, each with its value. Keys are not empty.
    pub(crate) fn new(word: Vec<(&[u8], u32)>, continuation: Vec<(&[u8], u32)>) -> Self {
        let mut builder = Builder { slots: Vec::new(), free_from: 0 };
        builder.grow();
        for root in [0, 1] {
            builder.slots[root].check = ROOT;
        }
        for (root, mut keys) in [(0u32, word), (1, continuation)] {
            keys.sort_unstable();
            keys.dedup_by(|later, kept| later.0 == kept.0);
            builder.insert(root, &keys);
        }
        Self { slots: builder.slots }
    }

    /// The longest key that `text` starts with: its length and value.
    #[inline(always)]
    pub(crate) fn longest(&self, root: Root, text: &[u8]) -> Option<(usize, u32)> {
        let slots = self.slots.as_slice();
        let mut node = root as usize;
        let mut base = slots[node].base;
        let (mut length, mut value) = (0, NO_VALUE);
        for (i, &byte) in text.iter().enumerate() {
            let next = (base ^ u32::from(byte)) as usize;
            let Some(slot) = slots.get(next) else { break };
            if slot.check != node as u32 {
                break;
            }
            node = next;
            base = slot.base;
            if slot.value != NO_VALUE {
                (length, value) = (i + 1, slot.value);
            }
        }
        (value != NO_VALUE).then_some((length, value))
    }
}

struct Builder {
    slots: Vec<Slot>,
    /// No slot below is free.
    free_from: usize,
}

impl Builder {
    fn grow(&mut self) {
        self.slots.resize(self.slots.len() + 256, EMPTY);
    }

    fn insert(&mut self, root: u32, keys: &[(&[u8], u32)]) {
        let mut pending = vec![(root, 0, keys)];
        let mut children: Vec<(u8, usize, usize)> = Vec::new();
        while let Some((node, depth, mut keys)) = pending.pop() {
            if let Some(&(key, value)) = keys.first()
                && key.len() == depth
            {
                self.slots[node as usize].value = value;
                keys = &keys[1..];
            }
            children.clear();
            for (i, (key, _)) in keys.iter().enumerate() {
                match children.last_mut() {
                    Some((byte, _, end)) if *byte == key[depth] => *end = i + 1,
                    _ => children.push((key[depth], i, i + 1)),
                }
            }
            if children.is_empty() {
                continue;
            }
            let base = self.place(&children);
            self.slots[node as usize].base = base;
            for &(byte, start, end) in &children {
                let child = base ^ u32::from(byte);
                self.slots[child as usize].check = node;
                pending.push((child, depth + 1, &keys[start..end]));
            }
        }
    }

    /// A base at which all children fall on free slots.
    fn place(&mut self, children: &[(u8, usize, usize)]) -> u32 {
        while self.free_from < self.slots.len() && self.slots[self.free_from].check != FREE {
            self.free_from += 1;
        }
        let mut tried = 0;
        let mut slot = self.free_from;
        while slot < self.slots.len() && tried < TRIES {
            if self.slots[slot].check == FREE {
                let base = slot as u32 ^ u32::from(children[0].0);
                let fits = |&(byte, _, _): &(u8, usize, usize)| self.slots[(base ^ u32::from(byte)) as usize].check == FREE;
                if children.iter().all(fits) {
                    return base;
                }
                tried += 1;
            }
            slot += 1;
        }
        // Crowded slots would be tried again and again: what is left of them is given up.
        if tried == TRIES {
            self.free_from = self.slots.len().saturating_sub(16 * 256).max(self.free_from);
            let mut slot = self.free_from;
            while slot < self.slots.len() {
                if self.slots[slot].check == FREE {
                    let base = slot as u32 ^ u32::from(children[0].0);
                    if children.iter().all(|c| self.slots[(base ^ u32::from(c.0)) as usize].check == FREE) {
                        return base;
                    }
                }
                slot += 1;
            }
        }
        let block = self.slots.len() as u32;
        self.grow();
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_longest_key_of_the_right_root() {
        let trie = Trie::new(vec![(b"un", 1), (b"unaff", 2), (b"a", 3)], vec![(b"aff", 4), (b"able", 5), ("中".as_bytes(), 6)]);
        assert_eq!(trie.longest(Root::Word, b"unaffable"), Some((5, 2)));
        assert_eq!(trie.longest(Root::Word, b"unab"), Some((2, 1)));
        assert_eq!(trie.longest(Root::Continuation, b"able"), Some((4, 5)));
        assert_eq!(trie.longest(Root::Continuation, "中文".as_bytes()), Some((3, 6)));
        assert_eq!(trie.longest(Root::Continuation, b"un"), None);
        assert_eq!(trie.longest(Root::Word, b""), None);
    }

    #[test]
    fn agrees_with_a_search_over_all_keys() {
        let mut state = 1u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let keys: Vec<Vec<u8>> = (0..3000).map(|_| (0..=next(6)).map(|_| (next(5) * 51) as u8).collect()).collect();
        let of = |root: usize| -> Vec<(&[u8], u32)> {
            let mut seen = std::collections::HashSet::new();
            keys.iter()
                .enumerate()
                .filter(|(i, key)| i % 2 == root && seen.insert(key.as_slice()))
                .map(|(i, key)| (key.as_slice(), i as u32))
                .collect()
        };
        let trie = Trie::new(of(0), of(1));
        for _ in 0..3000 {
            let text: Vec<u8> = (0..next(9)).map(|_| (next(5) * 51) as u8).collect();
            for (root, keys) in [(Root::Word, of(0)), (Root::Continuation, of(1))] {
                let expected = keys
                    .iter()
                    .filter(|(key, _)| text.starts_with(key))
                    .max_by_key(|(key, _)| key.len())
                    .map(|(key, value)| (key.len(), *value));
                assert_eq!(trie.longest(root, &text), expected, "{text:?}");
            }
        }
    }
}
