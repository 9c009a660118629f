//! The plain body: what every processor runs, Miri checks and the vector bodies are compared with.

use super::{LANES, Tile};

/// Rows that share one pass over the right operand.
const PASS: usize = 4;

/// See [`Tile::run`].
///
/// # Safety
/// As there.
pub(super) unsafe fn portable(tile: &Tile) {
    for row in (0..tile.rows).step_by(PASS) {
        let rows = PASS.min(tile.rows - row);
        for column in (0..tile.columns).step_by(LANES) {
            // SAFETY: rows and columns stay inside the tile, whose elements the caller vouches for.
            unsafe {
                let mut sums = [[0f32; LANES]; PASS];
                let c = tile.c.add(row * tile.c_row + column);
                if tile.accumulate {
                    for (i, sums) in sums.iter_mut().enumerate().take(rows) {
                        *sums = c.add(i * tile.c_row).cast::<[f32; LANES]>().read_unaligned();
                    }
                }
                for l in 0..tile.depth {
                    let b = tile.b.add(l * tile.b_row + column).cast::<[f32; LANES]>().read_unaligned();
                    for (i, sums) in sums.iter_mut().enumerate().take(rows) {
                        let a = *tile.a.add((row + i) * tile.a_row + l * tile.a_col);
                        for (sum, b) in sums.iter_mut().zip(b) {
                            *sum += a * b;
                        }
                    }
                }
                for (i, sums) in sums.iter().enumerate().take(rows) {
                    c.add(i * tile.c_row).cast::<[f32; LANES]>().write_unaligned(*sums);
                }
            }
        }
    }
}

/// See [`super::widen`].
pub(super) fn widen(from: &[u16], to: &mut [f32], half: bool) {
    if half {
        to.iter_mut().zip(from).for_each(|(to, &bits)| *to = half::f16::from_bits(bits).to_f32());
    } else {
        to.iter_mut().zip(from).for_each(|(to, &bits)| *to = f32::from_bits(u32::from(bits) << 16));
    }
}
