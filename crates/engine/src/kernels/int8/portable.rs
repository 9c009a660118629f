//! The plain body, for any processor and for Miri.

use super::QUAD;
use super::tile::Tile;
use crate::kernels::tile::{COLUMNS, LANES};

/// See [`Tile::run`].
///
/// # Safety
/// As there.
pub(super) unsafe fn portable(tile: &Tile) {
    for row in 0..tile.rows {
        for column in (0..tile.columns).step_by(LANES) {
            // SAFETY: rows and columns stay inside the tile, whose elements the caller vouches for.
            unsafe {
                let mut sums = [0i32; LANES];
                for quad in 0..tile.quads {
                    let a = tile.a.add(row * tile.a_row + quad * QUAD).cast::<[u8; QUAD]>().read_unaligned();
                    let b = tile
                        .b
                        .add((quad * COLUMNS + column) * QUAD)
                        .cast::<[[i8; QUAD]; LANES]>()
                        .read_unaligned();
                    for (sum, b) in sums.iter_mut().zip(b) {
                        for l in 0..QUAD {
                            *sum += (i32::from(a[l]) - 128) * i32::from(b[l]);
                        }
                    }
                }
                let scale = *tile.a_scale.add(row * tile.a_scale_row);
                for (lane, sum) in sums.into_iter().enumerate() {
                    let c = tile.c.add(row * tile.c_row + column + lane);
                    let before = if tile.accumulate { *c } else { 0.0 };
                    *c = (sum as f32 * scale) * *tile.b_scale.add(column + lane) + before;
                }
            }
        }
    }
}
