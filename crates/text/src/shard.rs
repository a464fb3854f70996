//! Shards: token ids with word, sentence and document boundaries, checksummed, memory-mapped, seekable.
//!
//! A file, little-endian throughout (`n` tokens, `m` sentences, `d` documents):
//!
//! | bytes | what |
//! |---|---|
//! | 0 … 128 | header: signature, version, counts, offsets, checksum of the index, checksum of itself |
//! | 128 … | token ids, `n` × u16 when the vocabulary has at most 65,536 entries, else `n` × u32 |
//! | … | one bit a token: it continues the word of the token before it |
//! | index | `m + 1` × u32 token offsets, `d + 1` × u32 sentence offsets, one xxh3-64 per 64 KiB block of ids and bits |
//!
//! Opening checks the length, the header, the whole index and every offset in it. A block of ids is checked when it
//! is first touched, or all at once by [`Shard::verify`].

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result, ShardFault};
use crate::mmap::Mapping;

const SIGNATURE: &[u8; 8] = b"CLOZESHD";
const VERSION: u32 = 1;
const HEADER: usize = 128;
const BLOCK: usize = 64 << 10;

/// A document as token ids, ready to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedDocument {
    /// Token ids of all sentences, without special tokens.
    pub ids: Vec<u32>,
    /// Whether each token continues the word of the one before it.
    pub continues: Vec<bool>,
    /// Where each sentence ends, in tokens; ascending, the last is the number of tokens.
    pub sentence_ends: Vec<u32>,
}

/// Numbers of the header, in file order.
#[derive(Clone, Copy, Debug)]
struct Header {
    id_bytes: u32,
    tokens: u64,
    sentences: u64,
    documents: u64,
    vocab_size: u64,
    continues_offset: u64,
    index_offset: u64,
    length: u64,
    index_checksum: u64,
}

fn align8(n: u64) -> u64 {
    n.next_multiple_of(8)
}

fn blocks(index_offset: u64) -> u64 {
    (index_offset - HEADER as u64).div_ceil(BLOCK as u64)
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER] {
        let mut out = [0u8; HEADER];
        out[..8].copy_from_slice(SIGNATURE);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.id_bytes.to_le_bytes());
        let numbers = [
            self.tokens,
            self.sentences,
            self.documents,
            self.vocab_size,
            self.continues_offset,
            self.index_offset,
            self.length,
            self.index_checksum,
        ];
        for (slot, number) in out[16..80].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = xxh3_64(&out[..HEADER - 8]);
        out[HEADER - 8..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads a header and checks that its numbers agree with each other and with the file's length.
    fn read(bytes: &[u8]) -> Result<Self, (u64, ShardFault)> {
        let found = bytes.len() as u64;
        if bytes.len() < HEADER {
            return Err((found, ShardFault::Length { expected: HEADER as u64, found }));
        }
        if &bytes[..8] != SIGNATURE {
            return Err((0, ShardFault::Signature));
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err((8, ShardFault::Version { expected: VERSION, found: version }));
        }
        let (expected, computed) = (u64_at(bytes, HEADER - 8), xxh3_64(&bytes[..HEADER - 8]));
        if expected != computed {
            return Err((0, ShardFault::Checksum { part: "header", expected, found: computed }));
        }
        let header = Self {
            id_bytes: u32_at(bytes, 12),
            tokens: u64_at(bytes, 16),
            sentences: u64_at(bytes, 24),
            documents: u64_at(bytes, 32),
            vocab_size: u64_at(bytes, 40),
            continues_offset: u64_at(bytes, 48),
            index_offset: u64_at(bytes, 56),
            length: u64_at(bytes, 64),
            index_checksum: u64_at(bytes, 72),
        };
        let layout = |offset, what, expected, found| Err((offset, ShardFault::Layout { what, expected, found }));
        let id_bytes = if header.vocab_size <= 1 << 16 { 2 } else { 4 };
        if header.id_bytes != id_bytes {
            return layout(12, "bytes of an id", id_bytes.into(), header.id_bytes.into());
        }
        let most = u64::from(u32::MAX);
        for (offset, what, count) in
            [(16, "token count", header.tokens), (24, "sentence count", header.sentences), (32, "document count", header.documents)]
        {
            if count > most {
                return layout(offset, what, most, count);
            }
        }
        let continues = align8(HEADER as u64 + header.tokens * u64::from(header.id_bytes));
        if header.continues_offset != continues {
            return layout(48, "offset of the word bits", continues, header.continues_offset);
        }
        let index = align8(continues + header.tokens.div_ceil(8));
        if header.index_offset != index {
            return layout(56, "offset of the index", index, header.index_offset);
        }
        let length = align8(index + 4 * (header.sentences + header.documents + 2)) + 8 * blocks(index);
        if header.length != length {
            return layout(64, "length of the file", length, header.length);
        }
        if found != length {
            return Err((found.min(length), ShardFault::Length { expected: length, found }));
        }
        Ok(header)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Writes one shard; memory grows with sentences and documents only, ids go straight to the file.
#[derive(Debug)]
pub struct ShardWriter {
    path: PathBuf,
    file: File,
    vocab_size: u64,
    block: Vec<u8>,
    checksums: Vec<u64>,
    written: u64,
    tokens: u64,
    continues: Vec<u8>,
    sentences: Vec<u32>, // token offset of each sentence
    documents: Vec<u32>, // sentence offset of each document
}

impl ShardWriter {
    /// Start the shard `path` for ids below `vocab_size`.
    pub fn create(path: &Path, vocab_size: u64) -> Result<Self> {
        let mut file = File::create(path).map_err(Error::io("create", path))?;
        file.write_all(&[0; HEADER]).map_err(Error::io("write", path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            vocab_size,
            block: Vec::with_capacity(BLOCK),
            checksums: Vec::new(),
            written: HEADER as u64,
            tokens: 0,
            continues: Vec::new(),
            sentences: vec![0],
            documents: vec![0],
        })
    }

    /// Tokens so far.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Append a document. Every id must be below the vocabulary size.
    pub fn push(&mut self, document: &EncodedDocument) -> Result<()> {
        let (n, ends) = (document.ids.len(), &document.sentence_ends);
        assert_eq!(document.continues.len(), n, "shard: one word bit per token");
        assert!(ends.is_sorted() && ends.last().map_or(n == 0, |&end| end as usize == n), "shard: sentence ends ascend to the token count");
        assert!(self.tokens + (n as u64) <= u64::from(u32::MAX), "shard: offsets have 32 bits");
        if let Some(&id) = document.ids.iter().find(|&&id| u64::from(id) >= self.vocab_size) {
            let fault = ShardFault::TokenId { id, vocabulary: self.vocab_size };
            return Err(Error::Shard { path: self.path.clone(), offset: self.written + self.block.len() as u64, fault });
        }
        let wide = self.vocab_size > 1 << 16;
        for &id in &document.ids {
            let bytes = id.to_le_bytes();
            self.put(if wide { &bytes } else { &bytes[..2] })?;
        }
        for &continues in &document.continues {
            let bit = self.tokens & 7;
            if bit == 0 {
                self.continues.push(0);
            }
            let last = self.continues.len() - 1;
            self.continues[last] |= u8::from(continues) << bit;
            self.tokens += 1;
        }
        let before = *self.sentences.last().unwrap_or(&0);
        self.sentences.extend(document.sentence_ends.iter().map(|end| before + end));
        self.documents.push((self.sentences.len() - 1) as u32);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.block.extend_from_slice(bytes); // an id never straddles blocks: its size divides the block's
        if self.block.len() >= BLOCK {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.checksums.push(xxh3_64(&self.block));
        self.file.write_all(&self.block).map_err(Error::io("write", &self.path))?;
        self.written += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        while !(self.written + self.block.len() as u64).is_multiple_of(8) {
            self.put(&[0])?;
        }
        Ok(())
    }

    /// Write the index and the header, and bring everything to the disk. Returns (tokens, sentences, documents, bytes).
    pub fn finish(mut self) -> Result<(u64, u64, u64, u64)> {
        self.pad()?;
        let continues_offset = self.written + self.block.len() as u64;
        for piece in std::mem::take(&mut self.continues).chunks(8) {
            self.put(piece)?; // blocks end on multiples of eight here, so that none grows past its size
        }
        self.pad()?;
        if !self.block.is_empty() {
            self.flush()?;
        }
        let index_offset = self.written;
        let mut index: Vec<u8> = Vec::with_capacity(4 * (self.sentences.len() + self.documents.len()) + 8 * self.checksums.len() + 8);
        for number in self.sentences.iter().chain(&self.documents) {
            index.extend_from_slice(&number.to_le_bytes());
        }
        index.resize(index.len().next_multiple_of(8), 0);
        for checksum in &self.checksums {
            index.extend_from_slice(&checksum.to_le_bytes());
        }
        let header = Header {
            id_bytes: if self.vocab_size <= 1 << 16 { 2 } else { 4 },
            tokens: self.tokens,
            sentences: self.sentences.len() as u64 - 1,
            documents: self.documents.len() as u64 - 1,
            vocab_size: self.vocab_size,
            continues_offset,
            index_offset,
            length: index_offset + index.len() as u64,
            index_checksum: xxh3_64(&index),
        };
        let write = |file: &mut File| {
            file.write_all(&index)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header.to_bytes())?;
            file.sync_all()
        };
        write(&mut self.file).map_err(Error::io("write", &self.path))?;
        Ok((header.tokens, header.sentences, header.documents, header.length))
    }
}

/// An open shard.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mapping,
    header: Header,
    /// One bit a block: its checksum and ids were found right.
    checked: Vec<AtomicU64>,
}

impl Shard {
    /// Map the shard and check length, header, index and offsets; ids are checked when first touched.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
        if bytes < HEADER as u64 {
            let fault = ShardFault::Length { expected: HEADER as u64, found: bytes };
            return Err(Error::Shard { path: path.to_path_buf(), offset: bytes, fault });
        }
        let map = Mapping::open(path)?;
        let fail = |(offset, fault)| Error::Shard { path: path.to_path_buf(), offset, fault };
        let header = Header::read(&map).map_err(fail)?;
        let checked = (0..blocks(header.index_offset).div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let shard = Self { path: path.to_path_buf(), map, header, checked };
        shard.check_index().map_err(fail)?;
        Ok(shard)
    }

    fn check_index(&self) -> Result<(), (u64, ShardFault)> {
        let h = &self.header;
        let found = xxh3_64(&self.map[h.index_offset as usize..]);
        if found != h.index_checksum {
            return Err((h.index_offset, ShardFault::Checksum { part: "index", expected: h.index_checksum, found }));
        }
        let documents_offset = h.index_offset + 4 * (h.sentences + 1);
        let tables = [
            ("sentence", h.index_offset, h.sentences, h.tokens, self.sentence_starts()),
            ("document", documents_offset, h.documents, h.sentences, self.document_starts()),
        ];
        for (what, offset, count, end, starts) in tables {
            let mut low = 0u64;
            for index in 0..=count {
                let found = u64::from(starts.get(index as usize));
                let (least, most) = if index == 0 {
                    (0, 0)
                } else if index == count {
                    (end, end)
                } else {
                    (low, end)
                };
                if found < least || found > most || found < low {
                    let fault = ShardFault::Offset { what, index, low: least.max(low), high: most, found };
                    return Err((offset + 4 * index, fault));
                }
                low = found;
            }
        }
        Ok(())
    }

    /// Check every block of ids.
    pub fn verify(&self) -> Result<()> {
        self.check_bytes(HEADER as u64..self.header.index_offset)
    }

    fn check_bytes(&self, bytes: Range<u64>) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let first = (bytes.start - HEADER as u64) / BLOCK as u64;
        let last = (bytes.end - 1 - HEADER as u64) / BLOCK as u64;
        for block in first..=last {
            let (slot, bit) = (&self.checked[(block / 64) as usize], 1u64 << (block % 64));
            if slot.load(Ordering::Relaxed) & bit == 0 {
                self.check_block(block)?;
                slot.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn check_block(&self, block: u64) -> Result<()> {
        let h = &self.header;
        let start = HEADER as u64 + block * BLOCK as u64;
        let end = (start + BLOCK as u64).min(h.index_offset);
        let bytes = &self.map[start as usize..end as usize];
        let checksums = align8(h.index_offset + 4 * (h.sentences + h.documents + 2)) as usize;
        let (expected, found) = (u64_at(&self.map, checksums + 8 * block as usize), xxh3_64(bytes));
        if expected != found {
            let fault = ShardFault::Checksum { part: "token block", expected, found };
            return Err(Error::Shard { path: self.path.clone(), offset: start, fault });
        }
        let ids_end = (HEADER as u64 + h.tokens * u64::from(h.id_bytes)).clamp(start, end);
        let ids = &bytes[..(ids_end - start) as usize];
        let id_bytes = h.id_bytes as usize;
        for (index, id) in ids.chunks_exact(id_bytes).enumerate() {
            let id = if id_bytes == 2 { u32::from(u16::from_le_bytes([id[0], id[1]])) } else { u32_at(id, 0) };
            if u64::from(id) >= h.vocab_size {
                let fault = ShardFault::TokenId { id, vocabulary: h.vocab_size };
                return Err(Error::Shard { path: self.path.clone(), offset: start + (index * id_bytes) as u64, fault });
            }
        }
        Ok(())
    }

    /// Tokens of the shard.
    pub fn tokens(&self) -> u64 {
        self.header.tokens
    }

    /// Sentences of the shard.
    pub fn sentences(&self) -> u64 {
        self.header.sentences
    }

    /// Documents of the shard.
    pub fn documents(&self) -> u64 {
        self.header.documents
    }

    /// Vocabulary size the ids were made with.
    pub fn vocab_size(&self) -> u64 {
        self.header.vocab_size
    }

    /// Token offsets of the sentences, with the number of tokens at the end. `[sentences + 1]`
    pub fn sentence_starts(&self) -> Offsets<'_> {
        let start = self.header.index_offset as usize;
        Offsets(&self.map[start..start + 4 * (self.header.sentences as usize + 1)])
    }

    /// Sentence offsets of the documents, with the number of sentences at the end. `[documents + 1]`
    pub fn document_starts(&self) -> Offsets<'_> {
        let start = self.header.index_offset as usize + 4 * (self.header.sentences as usize + 1);
        Offsets(&self.map[start..start + 4 * (self.header.documents as usize + 1)])
    }

    /// The tokens `range`, checked on first touch. The range must lie in the shard.
    pub fn token_range(&self, range: Range<u32>) -> Result<Tokens<'_>> {
        let h = &self.header;
        assert!(range.start <= range.end && u64::from(range.end) <= h.tokens, "shard: tokens {range:?} of {}", h.tokens);
        let size = u64::from(h.id_bytes);
        let bytes = HEADER as u64 + u64::from(range.start) * size..HEADER as u64 + u64::from(range.end) * size;
        let bits = h.continues_offset + u64::from(range.start) / 8..h.continues_offset + u64::from(range.end).div_ceil(8);
        self.check_bytes(bytes.clone())?;
        self.check_bytes(bits.clone())?;
        let ids = &self.map[bytes.start as usize..bytes.end as usize];
        // The mapping starts on a page and the section on a multiple of eight, so the casts cannot fail for alignment.
        let ids = match h.id_bytes {
            2 => Ids::U16(bytemuck::cast_slice(ids)),
            _ => Ids::U32(bytemuck::cast_slice(ids)),
        };
        let continues = if range.is_empty() { &[][..] } else { &self.map[bits.start as usize..bits.end as usize] };
        Ok(Tokens { ids, continues, shift: range.start % 8 })
    }
}

/// Ascending offsets inside a shard.
#[derive(Clone, Copy, Debug)]
pub struct Offsets<'a>(&'a [u8]);

impl Offsets<'_> {
    /// Offset `index`.
    #[inline]
    pub fn get(&self, index: usize) -> u32 {
        u32_at(self.0, 4 * index)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len() / 4
    }

    /// The number of offsets that are at most `value`.
    pub fn at_most(&self, value: u32) -> usize {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle) <= value { low = middle + 1 } else { high = middle }
        }
        low
    }
}

#[derive(Clone, Copy, Debug)]
enum Ids<'a> {
    U16(&'a [u16]),
    U32(&'a [u32]),
}

/// Some consecutive tokens of a shard, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    ids: Ids<'a>,
    continues: &'a [u8],
    shift: u32,
}

impl<'a> Tokens<'a> {
    /// How many tokens.
    pub fn len(&self) -> usize {
        match self.ids {
            Ids::U16(ids) => ids.len(),
            Ids::U32(ids) => ids.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id of token `i`.
    #[inline]
    pub fn id(&self, i: usize) -> u32 {
        match self.ids {
            Ids::U16(ids) => u32::from(u16::from_le(ids[i])),
            Ids::U32(ids) => u32::from_le(ids[i]),
        }
    }

    /// Whether token `i` continues the word of the token before it.
    #[inline]
    pub fn continues(&self, i: usize) -> bool {
        let bit = i + self.shift as usize;
        self.continues[bit / 8] >> (bit % 8) & 1 == 1
    }

    /// All ids, in order.
    pub fn ids(self) -> impl ExactSizeIterator<Item = u32> + 'a {
        (0..self.len()).map(move |i| self.id(i))
    }
}
