//! AVX-512-VNNI (8 x 48, four products and their sum in one instruction) and AVX2 (4 x 16).

use std::arch::x86_64::*;

use super::QUAD;
use super::tile::Tile;
use crate::kernels::tile::COLUMNS;

/// See [`Tile::run`].
///
/// # Safety
/// As there, on a processor with AVX-512-VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn vnni(tile: &Tile) {
    macro_rules! by_columns {
        ($rows:literal) => {
            match tile.columns {
                16 => vnni_tile::<$rows, 1>(tile),
                32 => vnni_tile::<$rows, 2>(tile),
                _ => vnni_tile::<$rows, 3>(tile),
            }
        };
    }
    // SAFETY: passed on from the caller.
    unsafe {
        match tile.rows {
            1 => by_columns!(1),
            2 => by_columns!(2),
            3 => by_columns!(3),
            4 => by_columns!(4),
            5 => by_columns!(5),
            6 => by_columns!(6),
            7 => by_columns!(7),
            _ => by_columns!(8),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[allow(clippy::needless_range_loop)]
unsafe fn vnni_tile<const R: usize, const L: usize>(tile: &Tile) {
    let Tile { a, a_row, b, c, c_row, .. } = *tile;
    // SAFETY: R rows and 16 L columns are the tile's extents, whose elements the caller vouches for.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); L]; R];
        for j in 0..L {
            let offset = _mm512_loadu_si512(tile.b_offset.add(16 * j).cast());
            for i in 0..R {
                sums[i][j] = offset;
            }
        }
        for quad in 0..tile.quads {
            let mut row = [_mm512_setzero_si512(); L];
            for j in 0..L {
                row[j] = _mm512_loadu_si512(b.add((quad * COLUMNS + 16 * j) * QUAD).cast());
            }
            for i in 0..R {
                let left = _mm512_set1_epi32(a.add(i * a_row + quad * QUAD).cast::<i32>().read_unaligned());
                for j in 0..L {
                    sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], left, row[j]);
                }
            }
        }
        for i in 0..R {
            let scale = _mm512_set1_ps(*tile.a_scale.add(i * tile.a_scale_row));
            for j in 0..L {
                let to = c.add(i * c_row + 16 * j);
                let before = if tile.accumulate { _mm512_loadu_ps(to) } else { _mm512_setzero_ps() };
                let sum = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[i][j]), scale);
                let column = _mm512_loadu_ps(tile.b_scale.add(16 * j));
                _mm512_storeu_ps(to, _mm512_fmadd_ps(sum, column, before));
            }
        }
    }
}

/// See [`Tile::run`].
///
/// # Safety
/// As there, on a processor with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2(tile: &Tile) {
    let mut row = 0;
    while row < tile.rows {
        for column in (0..tile.columns).step_by(16) {
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
                    1 => avx2_tile::<1>(&piece),
                    2 => avx2_tile::<2>(&piece),
                    3 => avx2_tile::<3>(&piece),
                    _ => avx2_tile::<4>(&piece),
                }
            }
        }
        row += 4;
    }
}

#[target_feature(enable = "avx2,fma")]
#[allow(clippy::needless_range_loop)]
unsafe fn avx2_tile<const R: usize>(tile: &Tile) {
    let Tile { a, a_row, b, c, c_row, .. } = *tile;
    // SAFETY: R rows and 16 columns are inside the tile, whose elements the caller vouches for.
    unsafe {
        let (ones, flip) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        for quad in 0..tile.quads {
            let at = b.add(quad * COLUMNS * QUAD);
            let row = [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(8 * QUAD).cast())];
            for i in 0..R {
                let left = _mm256_set1_epi32(a.add(i * a_row + quad * QUAD).cast::<i32>().read_unaligned());
                let left = _mm256_xor_si256(left, flip); // signed again
                let size = _mm256_abs_epi8(left);
                for j in 0..2 {
                    // |a| (sign(a) b): pairs stay below 2 * 127 * 127 = 32,258, so nothing saturates.
                    let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(row[j], left));
                    sums[i][j] = _mm256_add_epi32(sums[i][j], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        for i in 0..R {
            let scale = _mm256_set1_ps(*tile.a_scale.add(i * tile.a_scale_row));
            for j in 0..2 {
                let to = c.add(i * c_row + 8 * j);
                let before = if tile.accumulate { _mm256_loadu_ps(to) } else { _mm256_setzero_ps() };
                let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[i][j]), scale);
                let column = _mm256_loadu_ps(tile.b_scale.add(8 * j));
                _mm256_storeu_ps(to, _mm256_fmadd_ps(sum, column, before));
            }
        }
    }
}
