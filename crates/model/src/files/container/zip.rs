//! The directory of a zip archive (PKWARE's APPNOTE.TXT) whose entries are stored as they are, as `torch.save` writes it: so that a tensor's bytes
//! can be used where they lie in the mapped file. Archives beyond 4 GiB (zip64) are read; compressed, encrypted and split ones are refused.

use std::collections::HashMap;
use std::ops::Range;

/// Entries of an archive: one a storage.
const ENTRIES: usize = 1 << 17;
/// A comment may stand behind the end record.
const COMMENT: usize = 1 << 16;

/// An entry of the archive.
pub(super) struct Entry {
    /// Its bytes in the file.
    pub(super) bytes: Range<usize>,
    /// Their CRC-32, as the directory has it.
    pub(super) crc: u32,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk::<2>().map(|b| u16::from_le_bytes(*b).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))
}

/// The entries of an archive by name.
pub(super) fn entries(file: &[u8]) -> Result<HashMap<String, Entry>, String> {
    let (count, mut at) = directory(file)?;
    if count > ENTRIES as u64 {
        return Err(format!("{count} entries, above the limit of {ENTRIES}"));
    }
    let mut all = HashMap::new();
    for i in 0..count {
        let cut = || format!("its directory is damaged at entry {i}");
        if u32_at(file, at) != Some(0x0201_4b50) {
            return Err(cut());
        }
        let short = |offset: usize| u16_at(file, at + offset).ok_or_else(cut);
        let long = |offset: usize| u32_at(file, at + offset).ok_or_else(cut);
        let (flags, method) = (short(8)?, short(10)?);
        let (name_len, extra_len, comment_len) = (short(28)?, short(30)?, short(32)?);
        let name = file.get(at + 46..at + 46 + name_len).and_then(|b| std::str::from_utf8(b).ok()).ok_or_else(cut)?;
        let extra = file.get(at + 46 + name_len..at + 46 + name_len + extra_len).ok_or_else(cut)?;
        if method != 0 || flags & 1 != 0 {
            return Err(format!("entry \"{name}\" is compressed or encrypted, which torch.save never does"));
        }
        let (size, packed, header) = wide(extra, long(24)?, long(20)?, long(42)?).ok_or_else(cut)?;
        if size != packed {
            return Err(format!("entry \"{name}\" has {size} bytes and takes {packed}"));
        }
        let bytes = place(file, header, size).ok_or_else(|| format!("entry \"{name}\" reaches beyond the end of the file"))?;
        if all.insert(name.to_owned(), Entry { bytes, crc: long(16)? }).is_some() {
            return Err(format!("two entries are named \"{name}\""));
        }
        at += 46 + name_len + extra_len + comment_len;
    }
    Ok(all)
}

/// Number of entries, and where the directory begins.
fn directory(file: &[u8]) -> Result<(u64, usize), String> {
    let no_end = || "it has no directory at its end: it is cut off".to_owned();
    let last = file.len().checked_sub(22).ok_or_else(no_end)?;
    let first = last.saturating_sub(COMMENT);
    let end = (first..=last).rev().find(|&at| u32_at(file, at) == Some(0x0605_4b50)).ok_or_else(no_end)?;
    let (count, start) = (u16_at(file, end + 10).ok_or_else(no_end)? as u64, u32_at(file, end + 16).ok_or_else(no_end)?);
    let wide = end.checked_sub(20).filter(|&at| u32_at(file, at) == Some(0x0706_4b50));
    let (count, start) = match wide {
        Some(locator) => {
            let at = u64_at(file, locator + 8).and_then(|at| usize::try_from(at).ok()).ok_or_else(no_end)?;
            if u32_at(file, at) != Some(0x0606_4b50) {
                return Err("its zip64 directory is damaged".into());
            }
            let field = |offset: usize| at.checked_add(offset).and_then(|at| u64_at(file, at)).ok_or_else(no_end);
            (field(32)?, field(48)?)
        }
        None => (count, start.into()),
    };
    let start = usize::try_from(start).ok().filter(|start| *start <= file.len()).ok_or_else(no_end)?;
    Ok((count, start))
}

/// (size, packed size, offset of the local header): those that do not fit 32 bits stand in the extra field, in this order.
fn wide(extra: &[u8], size: u32, packed: u32, header: u32) -> Option<(u64, u64, u64)> {
    let mut fields: &[u8] = &[];
    let mut at = 0;
    while at + 4 <= extra.len() {
        let (id, len) = (u16_at(extra, at)?, u16_at(extra, at + 2)?);
        if id == 1 {
            fields = extra.get(at + 4..at + 4 + len)?;
        }
        at += 4 + len;
    }
    let mut next = 0;
    let mut of = |small: u32| {
        if small != u32::MAX {
            return Some(u64::from(small));
        }
        let value = u64_at(fields, next);
        next += 8;
        value
    };
    Some((of(size)?, of(packed)?, of(header)?))
}

/// Where the bytes of the entry with this local header lie.
fn place(file: &[u8], header: u64, size: u64) -> Option<Range<usize>> {
    let (header, size) = (usize::try_from(header).ok()?, usize::try_from(size).ok()?);
    if header >= file.len() || u32_at(file, header) != Some(0x0403_4b50) {
        return None;
    }
    let start = header + 30 + u16_at(file, header + 26)? + u16_at(file, header + 28)?;
    let end = start.checked_add(size)?;
    (end <= file.len()).then_some(start..end)
}
