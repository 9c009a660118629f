//! AVX-512 (8 x 48: 24 accumulators) and AVX2 (4 x 24: 12 accumulators).

use std::arch::x86_64::*;

use super::{COLUMNS, Narrow, Tile};

/// How far ahead of a narrow panel's row memory is asked for, in values.
const AHEAD: usize = 1024;

/// See [`Tile::run`].
///
/// # Safety
/// As there, on a processor with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn avx512(tile: &Tile) {
    macro_rules! by_columns {
        ($rows:literal) => {
            match tile.columns {
                16 => avx512_tile::<$rows, 1>(tile),
                32 => avx512_tile::<$rows, 2>(tile),
                _ => avx512_tile::<$rows, 3>(tile),
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(clippy::needless_range_loop)]
unsafe fn avx512_tile<const R: usize, const L: usize>(tile: &Tile) {
    let Tile { a, a_row, a_col, b, b_row, c, c_row, depth, .. } = *tile;
    // SAFETY: R rows and 16 L columns are the tile's extents, whose elements the caller vouches for.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); L]; R];
        if tile.accumulate {
            for i in 0..R {
                for j in 0..L {
                    sums[i][j] = _mm512_loadu_ps(c.add(i * c_row + 16 * j));
                }
            }
        }
        for l in 0..depth {
            let mut row = [_mm512_setzero_ps(); L];
            for j in 0..L {
                row[j] = _mm512_loadu_ps(b.add(l * b_row + 16 * j));
            }
            for i in 0..R {
                let left = _mm512_set1_ps(*a.add(i * a_row + l * a_col));
                for j in 0..L {
                    sums[i][j] = _mm512_fmadd_ps(left, row[j], sums[i][j]);
                }
            }
        }
        for i in 0..R {
            for j in 0..L {
                _mm512_storeu_ps(c.add(i * c_row + 16 * j), sums[i][j]);
            }
        }
    }
}

/// See [`Tile::run_narrow`].
///
/// # Safety
/// As there, on a processor with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn avx512_narrow(tile: &Tile, right: Narrow, keep: &mut [f32]) {
    macro_rules! by_rows {
        ($half:literal) => {
            match (tile.rows, keep.is_empty()) {
                (1, true) => avx512_narrow_tile::<1, $half, false>(tile, right, keep),
                (2, true) => avx512_narrow_tile::<2, $half, false>(tile, right, keep),
                (3, true) => avx512_narrow_tile::<3, $half, false>(tile, right, keep),
                (4, true) => avx512_narrow_tile::<4, $half, false>(tile, right, keep),
                (5, true) => avx512_narrow_tile::<5, $half, false>(tile, right, keep),
                (6, true) => avx512_narrow_tile::<6, $half, false>(tile, right, keep),
                (7, true) => avx512_narrow_tile::<7, $half, false>(tile, right, keep),
                (8, true) => avx512_narrow_tile::<8, $half, false>(tile, right, keep),
                (8, false) => avx512_narrow_tile::<8, $half, true>(tile, right, keep),
                _ => unreachable!("what is kept serves more than one tile, so this one is whole"),
            }
        };
    }
    // SAFETY: passed on from the caller.
    unsafe {
        if right.half {
            by_rows!(true);
        } else {
            by_rows!(false);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(clippy::needless_range_loop)]
unsafe fn avx512_narrow_tile<const R: usize, const HALF: bool, const KEEP: bool>(
    tile: &Tile,
    right: Narrow,
    keep: &mut [f32],
) {
    let Tile { a, a_row, a_col, c, c_row, depth, .. } = *tile;
    let (bits, keep) = (right.bits.as_ptr(), keep.as_mut_ptr());
    // SAFETY: R rows and 48 columns are the tile's extents, whose elements the caller vouches for; `run_narrow` checked
    // that `bits`, and `keep` if it is written, hold `depth` rows of 48. A prefetch may name any address.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 3]; R];
        if tile.accumulate {
            for i in 0..R {
                for j in 0..3 {
                    sums[i][j] = _mm512_loadu_ps(c.add(i * c_row + 16 * j));
                }
            }
        }
        for l in 0..depth {
            let at = bits.add(l * COLUMNS);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + 32).cast());
            let mut row = [_mm512_setzero_ps(); 3];
            for j in 0..3 {
                let narrow = _mm256_loadu_si256(at.add(16 * j).cast());
                row[j] = if HALF {
                    _mm512_cvtph_ps(narrow)
                } else {
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow)))
                };
                if KEEP {
                    _mm512_storeu_ps(keep.add(l * COLUMNS + 16 * j), row[j]);
                }
            }
            for i in 0..R {
                let left = _mm512_set1_ps(*a.add(i * a_row + l * a_col));
                for j in 0..3 {
                    sums[i][j] = _mm512_fmadd_ps(left, row[j], sums[i][j]);
                }
            }
        }
        for i in 0..R {
            for j in 0..3 {
                _mm512_storeu_ps(c.add(i * c_row + 16 * j), sums[i][j]);
            }
        }
    }
}

/// See [`Tile::run_narrow`].
///
/// # Safety
/// As there, for up to four rows, on a processor with AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn avx2_narrow(tile: &Tile, right: Narrow) {
    macro_rules! by_rows {
        ($half:literal, $column:expr) => {
            match tile.rows {
                1 => avx2_narrow_tile::<1, $half>(tile, right, $column),
                2 => avx2_narrow_tile::<2, $half>(tile, right, $column),
                3 => avx2_narrow_tile::<3, $half>(tile, right, $column),
                4 => avx2_narrow_tile::<4, $half>(tile, right, $column),
                _ => unreachable!("not direct"),
            }
        };
    }
    for column in [0, 24] {
        // SAFETY: passed on from the caller.
        unsafe {
            if right.half {
                by_rows!(true, column);
            } else {
                by_rows!(false, column);
            }
        }
    }
}

/// Columns `column..column + 24` of a tile.
#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::needless_range_loop)]
unsafe fn avx2_narrow_tile<const R: usize, const HALF: bool>(tile: &Tile, right: Narrow, column: usize) {
    let Tile { a, a_row, a_col, c, c_row, depth, .. } = *tile;
    let bits = right.bits.as_ptr();
    // SAFETY: as for AVX-512, with 24 columns from `column`.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); 3]; R];
        if tile.accumulate {
            for i in 0..R {
                for j in 0..3 {
                    sums[i][j] = _mm256_loadu_ps(c.add(i * c_row + column + 8 * j));
                }
            }
        }
        for l in 0..depth {
            let at = bits.add(l * COLUMNS);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD).cast());
            let mut row = [_mm256_setzero_ps(); 3];
            for j in 0..3 {
                let narrow = _mm_loadu_si128(at.add(column + 8 * j).cast());
                row[j] = if HALF {
                    _mm256_cvtph_ps(narrow)
                } else {
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(narrow)))
                };
            }
            for i in 0..R {
                let left = _mm256_set1_ps(*a.add(i * a_row + l * a_col));
                for j in 0..3 {
                    sums[i][j] = _mm256_fmadd_ps(left, row[j], sums[i][j]);
                }
            }
        }
        for i in 0..R {
            for j in 0..3 {
                _mm256_storeu_ps(c.add(i * c_row + column + 8 * j), sums[i][j]);
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
        let rows = (tile.rows - row).min(4);
        let mut column = 0;
        while column < tile.columns {
            let columns = (tile.columns - column).min(24);
            // SAFETY: rows and columns stay inside the tile.
            unsafe {
                let piece = Tile {
                    a: tile.a.add(row * tile.a_row),
                    b: tile.b.add(column),
                    c: tile.c.add(row * tile.c_row + column),
                    ..*tile
                };
                match (rows, columns) {
                    (1, 8) => avx2_tile::<1, 1>(&piece),
                    (1, 16) => avx2_tile::<1, 2>(&piece),
                    (1, _) => avx2_tile::<1, 3>(&piece),
                    (2, 8) => avx2_tile::<2, 1>(&piece),
                    (2, 16) => avx2_tile::<2, 2>(&piece),
                    (2, _) => avx2_tile::<2, 3>(&piece),
                    (3, 8) => avx2_tile::<3, 1>(&piece),
                    (3, 16) => avx2_tile::<3, 2>(&piece),
                    (3, _) => avx2_tile::<3, 3>(&piece),
                    (_, 8) => avx2_tile::<4, 1>(&piece),
                    (_, 16) => avx2_tile::<4, 2>(&piece),
                    (_, _) => avx2_tile::<4, 3>(&piece),
                }
            }
            column += columns;
        }
        row += rows;
    }
}

#[target_feature(enable = "avx2,fma")]
#[allow(clippy::needless_range_loop)]
unsafe fn avx2_tile<const R: usize, const L: usize>(tile: &Tile) {
    let Tile { a, a_row, a_col, b, b_row, c, c_row, depth, .. } = *tile;
    // SAFETY: R rows and 8 L columns are inside the tile, whose elements the caller vouches for.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); L]; R];
        if tile.accumulate {
            for i in 0..R {
                for j in 0..L {
                    sums[i][j] = _mm256_loadu_ps(c.add(i * c_row + 8 * j));
                }
            }
        }
        for l in 0..depth {
            let mut row = [_mm256_setzero_ps(); L];
            for j in 0..L {
                row[j] = _mm256_loadu_ps(b.add(l * b_row + 8 * j));
            }
            for i in 0..R {
                let left = _mm256_set1_ps(*a.add(i * a_row + l * a_col));
                for j in 0..L {
                    sums[i][j] = _mm256_fmadd_ps(left, row[j], sums[i][j]);
                }
            }
        }
        for i in 0..R {
            for j in 0..L {
                _mm256_storeu_ps(c.add(i * c_row + 8 * j), sums[i][j]);
            }
        }
    }
}

/// See [`super::widen`].
///
/// # Safety
/// The lengths agree; the processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn widen_avx512(from: &[u16], to: &mut [f32], half: bool) {
    let whole = from.len() - from.len() % 16;
    for at in (0..whole).step_by(16) {
        // SAFETY: `at + 16` is at most the length of both.
        unsafe {
            let bits = _mm256_loadu_si256(from.as_ptr().add(at).cast());
            let wide = if half {
                _mm512_cvtph_ps(bits)
            } else {
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
            };
            _mm512_storeu_ps(to.as_mut_ptr().add(at), wide);
        }
    }
    super::portable::widen(&from[whole..], &mut to[whole..], half);
}

/// See [`super::widen`].
///
/// # Safety
/// The lengths agree; the processor has AVX2 and F16C.
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn widen_avx2(from: &[u16], to: &mut [f32], half: bool) {
    let whole = from.len() - from.len() % 8;
    for at in (0..whole).step_by(8) {
        // SAFETY: `at + 8` is at most the length of both.
        unsafe {
            let bits = _mm_loadu_si128(from.as_ptr().add(at).cast());
            let wide = if half {
                _mm256_cvtph_ps(bits)
            } else {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
            };
            _mm256_storeu_ps(to.as_mut_ptr().add(at), wide);
        }
    }
    super::portable::widen(&from[whole..], &mut to[whole..], half);
}
