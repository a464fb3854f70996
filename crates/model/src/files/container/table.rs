//! The sorted tables of LevelDB (its `doc/table_format.md`), which TensorFlow keeps the index of a checkpoint in.

/// Bytes of the footer.
const FOOTER: usize = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// Entries of a table: one a variable.
const ENTRIES: usize = 1 << 20;
/// Keys of all entries together, in bytes: a key may share the front of the one before it, so that short files can hold long keys.
const KEY_BYTES: usize = 64 << 20;

/// A key and its value.
type Entry<'a> = (Vec<u8>, &'a [u8]);

/// All entries of a table in their order.
pub(super) fn entries(file: &[u8]) -> Result<Vec<Entry<'_>>, String> {
    let footer = file.len().checked_sub(FOOTER).map(|at| &file[at..]).ok_or("it is shorter than the footer of a table")?;
    let (body, magic) = footer.split_at(FOOTER - 8);
    if magic != MAGIC.to_le_bytes() {
        return Err("it does not end like a table: it is cut off, or another kind of file".into());
    }
    let mut at = 0;
    handle(body, &mut at).ok_or("the footer is damaged")?; // of the meta index, which is empty
    let index = handle(body, &mut at).ok_or("the footer is damaged")?;
    let mut all = Vec::new();
    let mut room = KEY_BYTES;
    for (_, place) in block(file, index, &mut room)? {
        let mut at = 0;
        let place = handle(place, &mut at).ok_or("the index of blocks is damaged")?;
        all.extend(block(file, place, &mut room)?);
        if all.len() > ENTRIES {
            return Err(format!("more than {ENTRIES} entries"));
        }
    }
    Ok(all)
}

/// The entries of the block at (offset, length).
fn block<'a>(file: &'a [u8], (offset, len): (usize, usize), room: &mut usize) -> Result<Vec<Entry<'a>>, String> {
    let end = offset.checked_add(len).and_then(|end| end.checked_add(5)).filter(|end| *end <= file.len());
    let whole = &file[offset..end.ok_or_else(|| format!("the block at byte {offset} reaches beyond the end"))?];
    let (data, trailer) = whole.split_at(len);
    let expected = u32::from_le_bytes([trailer[1], trailer[2], trailer[3], trailer[4]]);
    let found = masked(crc32c::crc32c(&whole[..=len]));
    if found != expected {
        return Err(format!("the block at byte {offset} has checksum {found:08x}, the file says {expected:08x}"));
    }
    if trailer[0] != 0 {
        return Err(format!("the block at byte {offset} is compressed, which TensorFlow's saver never does"));
    }
    let damaged = || format!("the block at byte {offset} is damaged");
    let count = data.last_chunk::<4>().map(|b| u32::from_le_bytes(*b) as usize).ok_or_else(damaged)?;
    let restarts = count.checked_mul(4).and_then(|n| n.checked_add(4)).ok_or_else(damaged)?;
    let data = data.len().checked_sub(restarts).map(|end| &data[..end]).ok_or_else(damaged)?;
    let mut entries: Vec<(Vec<u8>, &[u8])> = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let mut next = || varint(data, &mut at).and_then(|n| usize::try_from(n).ok());
        let (Some(shared), Some(own), Some(value)) = (next(), next(), next()) else { return Err(damaged()) };
        let mut take = |n: usize| {
            let end = at.checked_add(n).filter(|end| *end <= data.len())?;
            let taken = &data[at..end];
            at = end;
            Some(taken)
        };
        let (Some(own), Some(value)) = (take(own), take(value)) else { return Err(damaged()) };
        let before = entries.last().map_or(&[][..], |(key, _)| key);
        let shared = before.get(..shared).ok_or_else(damaged)?;
        *room = room.checked_sub(shared.len() + own.len()).ok_or("the keys are longer than any model's")?;
        let key = [shared, own].concat();
        entries.push((key, value));
        if entries.len() > ENTRIES {
            return Err(format!("more than {ENTRIES} entries"));
        }
    }
    Ok(entries)
}

/// A place in the file: (offset, length).
fn handle(bytes: &[u8], at: &mut usize) -> Option<(usize, usize)> {
    let mut next = || varint(bytes, at).and_then(|n| usize::try_from(n).ok());
    Some((next()?, next()?))
}

/// A number in groups of seven bits, the lowest first.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// LevelDB stores checksums turned and shifted, so that the checksum of data that holds checksums stays good.
pub(super) fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}
