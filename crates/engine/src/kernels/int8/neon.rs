//! NEON (4 x 4): widening products of 8 bits, added up in pairs.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;

use super::QUAD;
use super::tile::Tile;
#[cfg(not(target_arch = "aarch64"))]
use crate::kernels::neon_model::*;
use crate::kernels::tile::COLUMNS;

/// See [`Tile::run`].
///
/// # Safety
/// As there.
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
pub(super) unsafe fn neon(tile: &Tile) {
    let mut row = 0;
    while row < tile.rows {
        for column in (0..tile.columns).step_by(4) {
            // SAFETY: rows and columns stay inside the tile.
            unsafe {
                let piece = Tile {
                    a: tile.a.add(row * tile.a_row),
                    a_scale: tile.a_scale.add(row * tile.a_scale_row),
                    b: tile.b.add(column * QUAD),
                    b_scale: tile.b_scale.add(column),
                    c: tile.c.add(row * tile.c_row + column),
                    ..*tile
                };
                match tile.rows - row {
                    1 => neon_tile::<1>(&piece),
                    2 => neon_tile::<2>(&piece),
                    3 => neon_tile::<3>(&piece),
                    _ => neon_tile::<4>(&piece),
                }
            }
        }
        row += 4;
    }
}

#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
#[allow(clippy::needless_range_loop)]
unsafe fn neon_tile<const R: usize>(tile: &Tile) {
    let Tile { a, a_row, b, c, c_row, .. } = *tile;
    // SAFETY: R rows and 4 columns are inside the tile, whose elements the caller vouches for.
    unsafe {
        let flip = vdupq_n_u8(128);
        let mut sums = [vdupq_n_s32(0); R];
        for quad in 0..tile.quads {
            let right = vld1q_s8(b.add(quad * COLUMNS * QUAD));
            for i in 0..R {
                let left = vdupq_n_u32(a.add(i * a_row + quad * QUAD).cast::<u32>().read_unaligned());
                let left = vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_u32(left), flip));
                let low = vpaddlq_s16(vmull_s8(vget_low_s8(right), vget_low_s8(left)));
                let high = vpaddlq_s16(vmull_high_s8(right, left));
                sums[i] = vaddq_s32(sums[i], vpaddq_s32(low, high));
            }
        }
        let column = vld1q_f32(tile.b_scale);
        for i in 0..R {
            let to = c.add(i * c_row);
            let before = if tile.accumulate { vld1q_f32(to) } else { vdupq_n_f32(0.0) };
            let sum = vmulq_n_f32(vcvtq_f32_s32(sums[i]), *tile.a_scale.add(i * tile.a_scale_row));
            vst1q_f32(to, vfmaq_f32(before, sum, column));
        }
    }
}
