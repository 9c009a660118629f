//! NEON (8 x 12: 24 accumulators of the 32 registers); 16 columns go as 12 and 4.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;

use super::Tile;
#[cfg(not(target_arch = "aarch64"))]
use crate::kernels::neon_model::*;

/// See [`Tile::run`].
///
/// # Safety
/// As there.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
pub(super) unsafe fn neon(tile: &Tile) {
    let mut row = 0;
    while row < tile.rows {
        let rows = if tile.rows - row >= 8 { 8 } else { (tile.rows - row).min(4) };
        let mut column = 0;
        while column < tile.columns {
            let columns = (tile.columns - column).min(12);
            // SAFETY: rows and columns stay inside the tile.
            unsafe {
                let piece = Tile {
                    a: tile.a.add(row * tile.a_row),
                    b: tile.b.add(column),
                    c: tile.c.add(row * tile.c_row + column),
                    ..*tile
                };
                macro_rules! by_columns {
                    ($rows:literal) => {
                        match columns {
                            4 => neon_tile::<$rows, 1>(&piece),
                            8 => neon_tile::<$rows, 2>(&piece),
                            _ => neon_tile::<$rows, 3>(&piece),
                        }
                    };
                }
                match rows {
                    1 => by_columns!(1),
                    2 => by_columns!(2),
                    3 => by_columns!(3),
                    4 => by_columns!(4),
                    _ => by_columns!(8),
                }
            }
            column += columns;
        }
        row += rows;
    }
}

#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
#[allow(clippy::needless_range_loop)]
unsafe fn neon_tile<const R: usize, const L: usize>(tile: &Tile) {
    let Tile { a, a_row, a_col, b, b_row, c, c_row, depth, .. } = *tile;
    // SAFETY: R rows and 4 L columns are inside the tile, whose elements the caller vouches for.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); L]; R];
        if tile.accumulate {
            for i in 0..R {
                for j in 0..L {
                    sums[i][j] = vld1q_f32(c.add(i * c_row + 4 * j));
                }
            }
        }
        for l in 0..depth {
            let mut row = [vdupq_n_f32(0.0); L];
            for j in 0..L {
                row[j] = vld1q_f32(b.add(l * b_row + 4 * j));
            }
            for i in 0..R {
                let left = vdupq_n_f32(*a.add(i * a_row + l * a_col));
                for j in 0..L {
                    sums[i][j] = vfmaq_f32(sums[i][j], left, row[j]);
                }
            }
        }
        for i in 0..R {
            for j in 0..L {
                vst1q_f32(c.add(i * c_row + 4 * j), sums[i][j]);
            }
        }
    }
}
