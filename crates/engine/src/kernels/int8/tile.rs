//! The micro-kernel's operands, and its choice by instruction set.

use super::portable::portable;
use crate::kernels::isa::Isa;
use crate::kernels::tile::COLUMNS;

/// `c (rows, columns) (+)= a_scale (a - 128) b b_scale`, over one group of the depth.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Left bytes, `(rows, 4 quads)`.
    pub a: *const u8,
    /// From row to row of it.
    pub a_row: usize,
    /// The group's scale in the first row.
    pub a_scale: *const f32,
    /// From row to row of those.
    pub a_scale_row: usize,
    /// Right bytes, `(quads, 48, 4)`.
    pub b: *const i8,
    /// `-128 * sum(b)`, `(48)`.
    pub b_offset: *const i32,
    /// `(48)`
    pub b_scale: *const f32,
    /// Output; its columns are adjacent.
    pub c: *mut f32,
    /// From row to row of it.
    pub c_row: usize,
    /// 1 to 8
    pub rows: usize,
    /// 16, 32 or 48
    pub columns: usize,
    pub quads: usize,
    /// Whether to start from what the output holds.
    pub accumulate: bool,
}

impl Tile {
    /// Computes the tile.
    ///
    /// # Safety
    /// The processor has `isa`; all elements named by the extents and strides are readable, those of `c` writable
    /// and not accessed by anybody else meanwhile.
    pub unsafe fn run(&self, isa: Isa) {
        // SAFETY: passed on from the caller.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Vnni => super::x86::vnni(self),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Avx2 => super::x86::avx2(self),
                #[cfg(any(test, target_arch = "aarch64"))]
                Isa::Neon => super::neon::neon(self),
                _ => portable(self),
            }
        }
    }

    /// The tile where only the first `wanted` columns exist in the output.
    ///
    /// # Safety
    /// As for [`Tile::run`], with `wanted` instead of the tile's own columns for the output.
    pub unsafe fn cut_off(&self, wanted: usize, edge: &mut [f32], isa: Isa) {
        for i in 0..self.rows {
            // SAFETY: `wanted` values of each output row are the caller's to use.
            let row = unsafe { std::slice::from_raw_parts_mut(self.c.add(i * self.c_row), wanted) };
            edge[i * COLUMNS..][..wanted].copy_from_slice(row);
        }
        let whole = Tile { c: edge.as_mut_ptr(), c_row: COLUMNS, ..*self };
        // SAFETY: the output is now `edge`, whose rows are as wide as a panel.
        unsafe { whole.run(isa) };
        for i in 0..self.rows {
            // SAFETY: as above.
            let row = unsafe { std::slice::from_raw_parts_mut(self.c.add(i * self.c_row), wanted) };
            row.copy_from_slice(&edge[i * COLUMNS..][..wanted]);
        }
    }
}
