//! How a product is cut into blocks for the caches and into tasks for the threads.

use super::Precision;

/// Words of depth in a block at most: with the widest tile, a packed panel of B takes 144 KiB, so that it stays in
/// the second-level cache together with a block of A. Depths of BERT's hidden sizes are summed without going through C.
const DEPTH: usize = 768;

/// Rows in a task at most: a packed block of A takes 288 KiB.
const ROWS: usize = 96;

/// Bytes of B that are packed at once when it was not packed before: a share of the last-level cache.
const PACKED_BYTES: usize = 4 << 20;

/// Reading a panel of B from memory, where a tile costs 8: a step of the depth takes 192 bytes, 32 cycles at 24 GB/s a core, and a
/// tile of 24 vectors 12 cycles.
const PANEL: usize = 20;

/// Products with fewer multiplications run on the calling thread: waking others would take longer.
pub(super) const SERIAL: usize = 1 << 17;

/// Words of depth: one word holds one f32, two bf16 or four bytes.
pub(super) fn words(k: usize, precision: Precision) -> usize {
    k.div_ceil(precision.per_word())
}

/// The length of the blocks along the depth. It depends on nothing else, because it fixes the order of the sums.
/// Bytes are summed over the whole depth: a row is quantised at once, and its words are few.
pub(super) fn depth_block(words: usize, precision: Precision) -> usize {
    if precision == Precision::Int8 {
        return words.max(1);
    }
    let blocks = words.div_ceil(DEPTH).max(1);
    words.div_ceil(blocks).next_multiple_of(8).max(8)
}

/// Columns (a multiple of `panel`) and words of depth (a multiple of `block`) of B to pack at once.
/// `whole_depth`: the sums between blocks cannot be kept in C, so the depth must not be cut.
pub(super) fn packing_chunk(n: usize, words: usize, panel: usize, block: usize, whole_depth: bool) -> (usize, usize) {
    let columns = if n <= 4096 { n.max(1) } else { n.div_ceil(n.div_ceil(3072)) }.next_multiple_of(panel);
    let all = words.next_multiple_of(block).max(block);
    if whole_depth {
        return (columns, all);
    }
    let depth = (PACKED_BYTES / 4 / columns / block * block).max(block);
    // Chunks of equal length, so that the last is not a sliver.
    let chunks = all.div_ceil(depth);
    (columns, all.div_ceil(chunks).next_multiple_of(block))
}

/// Tasks over C: each computes `rows` rows of `panels` panels of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// Rows of a task, a multiple of the tile's.
    pub(super) rows: usize,
    /// Panels of a task.
    pub(super) panels: usize,
    /// Tasks along the rows.
    pub(super) down: usize,
    /// Tasks along the columns.
    pub(super) across: usize,
}

impl Grid {
    /// Cut `m` rows and `panels` panels for `threads`. Rows are cut first, because each task packs its rows of
    /// A; columns are cut where rows alone would leave a thread idle or unevenly loaded.
    pub(super) fn new(m: usize, panels: usize, tile_rows: usize, threads: usize) -> Self {
        let with = |down: usize, across: usize| {
            let rows = m.div_ceil(down).next_multiple_of(tile_rows);
            let width = panels.div_ceil(across);
            Self { rows, panels: width, down: m.div_ceil(rows), across: panels.div_ceil(width) }
        };
        if threads == 1 {
            return with(m.div_ceil(ROWS), 1);
        }
        let down = threads * m.div_ceil(threads * ROWS);
        // Cost of a grid, 8 for a tile: the panels of the busiest thread, each of which is computed or waited for, whichever takes
        // longer, and a little for packing rows more than once. So threads share few rows by columns: none has to read all of B.
        let cost = |grid: &Self| {
            let rounds = (grid.down * grid.across).div_ceil(threads);
            let tiles = grid.rows.div_ceil(tile_rows);
            rounds * (grid.panels * (8 * tiles).max(PANEL) + 3 * tiles)
        };
        let candidates = [(down, 1), (1, threads), (1, 2 * threads), (down, threads), (m.div_ceil(ROWS), threads)];
        let mut best = with(down, 1);
        for (down, across) in candidates {
            let down = down.max(m.div_ceil(ROWS)).min(m.max(1));
            let grid = with(down, across.min(panels.max(1)));
            if cost(&grid) < cost(&best) {
                best = grid;
            }
        }
        best
    }

    /// The number of tasks.
    pub(super) fn tasks(&self) -> usize {
        self.down * self.across
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_even() {
        assert_eq!(depth_block(768, Precision::F32), 768);
        assert_eq!(depth_block(3072, Precision::F32), 768);
        assert_eq!(depth_block(1024, Precision::F32), 512);
        assert_eq!(depth_block(769, Precision::F32), 392);
        assert_eq!(depth_block(3072 / 4, Precision::Int8), 768);
        assert_eq!(depth_block(5, Precision::Int8), 5);
        assert_eq!(depth_block(1, Precision::F32), 8);
        assert_eq!(depth_block(0, Precision::F32), 8);
    }

    #[test]
    fn grids_cover_and_balance() {
        for threads in [1, 2, 3, 16] {
            for m in [1usize, 7, 16, 33, 100, 128, 1024, 5000] {
                for panels in [1usize, 2, 3, 16, 64] {
                    let grid = Grid::new(m, panels, 8, threads);
                    assert!(grid.down * grid.rows >= m && (grid.down - 1) * grid.rows < m, "{m} {panels} {threads} {grid:?}");
                    assert!(grid.across * grid.panels >= panels && (grid.across - 1) * grid.panels < panels, "{grid:?}");
                    assert!(grid.rows <= ROWS && grid.rows.is_multiple_of(8), "{grid:?}");
                }
            }
        }
        // Few rows: each thread reads its own half of B.
        assert_eq!((Grid::new(16, 48, 8, 2).down, Grid::new(16, 48, 8, 2).across), (1, 2));
        assert_eq!(Grid::new(128, 48, 8, 2).across, 1);
        let busy = |m, panels| {
            let g = Grid::new(m, panels, 8, 2);
            g.tasks().div_ceil(2) * 2 * g.rows * g.panels
        };
        assert!(busy(1, 16) <= 8 * 16 && busy(33, 16) <= 40 * 16 && busy(128, 16) == 128 * 16 && busy(1024, 16) <= 1056 * 16);
    }

    #[test]
    fn chunks_are_bounded() {
        assert_eq!(packing_chunk(768, 768, 48, 384, false), (768, 768));
        let (columns, depth) = packing_chunk(768, 8192, 48, 376, false);
        assert!(columns == 768 && depth.is_multiple_of(376) && depth * columns * 4 <= PACKED_BYTES);
        assert_eq!(packing_chunk(768, 8192, 48, 376, true).1, 8192usize.next_multiple_of(376));
        assert!(packing_chunk(30522, 768, 48, 384, false).0 <= 3120);
    }
}
