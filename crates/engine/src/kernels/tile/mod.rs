//! Micro-kernels: up to 8 rows by up to 48 columns of a product, held in registers while the depth runs by.
//!
//! Every instruction set takes the same operands. The left one has any strides; the right one lies in rows of at
//! least `columns` values, with 0 or anything finite beyond the columns that are wanted. Each output value is one
//! chain of fused multiply-adds in the order of the depth (unfused in the portable body), so AVX-512, AVX2 and NEON
//! give the same bits, and cutting the depth into chunks changes none.

#[cfg(any(test, target_arch = "aarch64"))]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::isa::Isa;

/// Most rows of a tile.
pub(crate) const ROWS: usize = 8;
/// Columns of a panel: three 512-bit vectors. With 8 rows that makes 24 accumulators of 32 registers.
pub(crate) const COLUMNS: usize = 48;
/// Columns come in steps of this.
pub(crate) const LANES: usize = 16;

/// `c (rows, columns) (+)= a (rows, depth) b (depth, columns)`.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Element (0, 0) of the left operand.
    pub a: *const f32,
    /// From row to row of it.
    pub a_row: usize,
    /// From column to column of it.
    pub a_col: usize,
    /// Element (0, 0) of the right operand; its columns are adjacent.
    pub b: *const f32,
    /// From row to row of it.
    pub b_row: usize,
    /// Element (0, 0) of the output; its columns are adjacent.
    pub c: *mut f32,
    /// From row to row of it.
    pub c_row: usize,
    /// 1 to [`ROWS`]
    pub rows: usize,
    /// 16, 32 or 48
    pub columns: usize,
    pub depth: usize,
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
        debug_assert!((1..=ROWS).contains(&self.rows) && self.columns.is_multiple_of(LANES));
        // SAFETY: passed on from the caller.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Avx512Vnni => x86::avx512(self),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => x86::avx2(self),
                #[cfg(any(test, target_arch = "aarch64"))]
                Isa::Neon => neon::neon(self),
                _ => portable::portable(self),
            }
        }
    }
}

/// Rows of a whole panel in 16 bits: `(depth, 48)`, dense.
#[derive(Clone, Copy)]
pub(crate) struct Narrow<'a> {
    pub bits: &'a [u16],
    /// f16; otherwise bf16
    pub half: bool,
}

impl Narrow<'_> {
    /// Whether [`Tile::run_narrow`] beats widening a panel first, for products of `rows` rows in all. AVX-512 widens
    /// on the way through its first tile, so that reading memory and multiplying overlap; AVX2 goes over its operand
    /// once for each four rows, and has no such tile elsewhere.
    pub fn is_direct(isa: Isa, rows: usize) -> bool {
        match isa {
            Isa::Avx512 | Isa::Avx512Vnni => true,
            Isa::Avx2 => rows <= 4,
            Isa::Neon | Isa::Portable => false,
        }
    }
}

impl Tile {
    /// Computes the tile with `right` as its right operand, in place of `b`. Where `keep` is not empty, leaves the
    /// widened rows there. Bits are those of widening first.
    ///
    /// # Safety
    /// As for [`Tile::run`], except that `b` is not read; [`Narrow::is_direct`] holds for `isa` and these rows.
    pub unsafe fn run_narrow(&self, isa: Isa, right: Narrow, keep: &mut [f32]) {
        assert!(self.columns == COLUMNS && right.bits.len() == self.depth * COLUMNS, "a whole panel");
        assert!(keep.is_empty() || keep.len() == self.depth * COLUMNS, "room for a widened panel");
        // SAFETY: passed on from the caller; the extents of `right` and `keep` are asserted.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Avx512Vnni => x86::avx512_narrow(self, right, keep),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 if keep.is_empty() => x86::avx2_narrow(self, right),
                _ => unreachable!("not direct"),
            }
        }
    }
}

/// Widens 16-bit panel values to f32; `half` says f16, otherwise they are bf16. Exact in both cases.
///
/// # Safety
/// The processor has `isa`.
pub(crate) unsafe fn widen(isa: Isa, from: &[u16], to: &mut [f32], half: bool) {
    assert_eq!(from.len(), to.len(), "widening");
    // SAFETY: the lengths agree; the instruction set is the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Vnni => x86::widen_avx512(from, to, half),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::widen_avx2(from, to, half),
            _ => portable::widen(from, to, half),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};

    #[test]
    fn every_instruction_set_matches_the_reference_for_every_extent() {
        for isa in Isa::tested() {
            for rows in 1..=ROWS {
                for columns in [16, 32, 48] {
                    for depth in [0, 1, 2, 7, 33] {
                        let (a, b) = (random(rows * depth.max(1), "a"), random(depth.max(1) * 50, "b"));
                        // The left operand is taken transposed in every other case.
                        let (a_row, a_col) = if depth % 2 == 0 { (depth, 1) } else { (1, rows) };
                        for accumulate in [false, true] {
                            let mut c = random(rows * 53, "c");
                            let mut expected = c.clone();
                            for i in 0..rows {
                                for j in 0..columns {
                                    let product: f64 = (0..depth)
                                        .map(|l| {
                                            f64::from(a[i * a_row + l * a_col]) * f64::from(b[l * 50 + j])
                                        })
                                        .sum();
                                    let before = if accumulate { f64::from(c[i * 53 + j]) } else { 0.0 };
                                    expected[i * 53 + j] = (before + product) as f32;
                                }
                            }
                            let tile = Tile {
                                a: a.as_ptr(),
                                a_row,
                                a_col,
                                b: b.as_ptr(),
                                b_row: 50,
                                c: c.as_mut_ptr(),
                                c_row: 53,
                                rows,
                                columns,
                                depth,
                                accumulate,
                            };
                            // SAFETY: the extents are those of the vectors above.
                            unsafe { tile.run(isa) };
                            assert_close(&c, &expected, 2e-6, isa.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn fused_instruction_sets_agree_to_the_bit() {
        let (a, b) = (random(8 * 100, "a"), random(100 * 48, "b"));
        let run = |isa| {
            let mut c = vec![0f32; 8 * 48];
            let tile = Tile {
                a: a.as_ptr(),
                a_row: 100,
                a_col: 1,
                b: b.as_ptr(),
                b_row: 48,
                c: c.as_mut_ptr(),
                c_row: 48,
                rows: 8,
                columns: 48,
                depth: 100,
                accumulate: false,
            };
            // SAFETY: the extents are those of the vectors above.
            unsafe { tile.run(isa) };
            c
        };
        let fused: Vec<Vec<f32>> = Isa::tested().filter(|isa| *isa != Isa::Portable).map(run).collect();
        assert!(fused.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn narrow_panels_give_the_bits_of_widened_ones() {
        let depth = 37;
        let a = random(ROWS * depth, "a");
        for half in [false, true] {
            let bits: Vec<u16> =
                random(depth * COLUMNS, "b")
                    .iter()
                    .map(|&v| {
                        if half {
                            half::f16::from_f32(v).to_bits()
                        } else {
                            half::bf16::from_f32(v).to_bits()
                        }
                    })
                    .collect();
            for isa in Isa::tested() {
                let mut wide = vec![0f32; bits.len()];
                // SAFETY: `tested` lists what can run here.
                unsafe { widen(isa, &bits, &mut wide, half) };
                for rows in (1..=ROWS).filter(|&rows| Narrow::is_direct(isa, rows)) {
                    for accumulate in [false, true] {
                        let (mut expected, mut found) = (random(rows * 50, "c"), random(rows * 50, "c"));
                        let mut tile = Tile {
                            a: a.as_ptr(),
                            a_row: depth,
                            a_col: 1,
                            b: wide.as_ptr(),
                            b_row: COLUMNS,
                            c: expected.as_mut_ptr(),
                            c_row: 50,
                            rows,
                            columns: COLUMNS,
                            depth,
                            accumulate,
                        };
                        let mut keep = vec![0f32; if rows == ROWS { bits.len() } else { 0 }];
                        // SAFETY: the extents are those of the vectors above.
                        unsafe { tile.run(isa) };
                        tile.c = found.as_mut_ptr();
                        // SAFETY: as above.
                        unsafe { tile.run_narrow(isa, Narrow { bits: &bits, half }, &mut keep) };
                        assert_eq!(found, expected, "{} rows {rows}", isa.name());
                        assert!(keep.is_empty() || keep == wide, "{}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn widening_is_exact_on_every_instruction_set() {
        let bits: Vec<u16> = (0..2000u32).map(|i| (i * 37) as u16).collect();
        for isa in Isa::tested() {
            for half in [false, true] {
                let mut wide = vec![0f32; bits.len()];
                // SAFETY: `tested` lists what can run here.
                unsafe { widen(isa, &bits, &mut wide, half) };
                for (found, &bits) in wide.iter().zip(&bits) {
                    let expected = if half {
                        half::f16::from_bits(bits).to_f32()
                    } else {
                        half::bf16::from_bits(bits).to_f32()
                    };
                    assert!(
                        found.to_bits() == expected.to_bits() || expected.is_nan(),
                        "{} {bits:#x}: {found} instead of {expected}",
                        isa.name()
                    );
                }
            }
        }
    }
}
