//! Products with a frozen matrix in 8 bits.
//!
//! Weights are symmetric in [-127, 127] with one scale for each output channel. The other operand is quantised on
//! the fly, each row in groups of at most [`GROUP`] values with a scale of their own, so that one outlier spoils only
//! its group. Inside a group everything is exact integer arithmetic; the groups are added up in f32. Left values are
//! stored with 128 added, as `vpdpbusd` wants them unsigned; `128 * sum(weights)` is taken off again.
//!
//! Where 8 bits are too few, the left operand takes two terms: the second quantises what the first left over. The
//! gradient of the logits needs it, see [`Terms::Two`].
//!
//! The integers are the same on every processor, and so are the results, but for the fused last addition (unfused in
//! the portable body).

#[cfg(any(test, target_arch = "aarch64"))]
mod neon;
mod portable;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::cell::RefCell;

use super::Shared;
use super::aligned::Aligned;
use super::gemm::{Cut, MatMut};
use super::isa::Isa;
use super::packed::Frozen;
use super::simd::multiversion;
use super::tile::{COLUMNS, LANES, ROWS};
use crate::threads::Threads;
use tile::Tile;

/// Most values that share a scale in the left operand. Sums stay below 2^24, so they are exact in f32 too.
const GROUP: usize = 192;
/// Values that one 32-bit lane multiplies and adds at a time.
const QUAD: usize = 4;

/// 1.5 * 2^23: adding it rounds to an integer, ties to even, which the low bits then hold in two's complement.
const ROUND: f32 = 12_582_912.0;

/// How a depth is cut into groups.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Groups {
    count: usize,
    /// Values of each, a multiple of [`QUAD`]; the last one is filled up with zeros.
    len: usize,
}

impl Groups {
    fn of(depth: usize) -> Self {
        let count = depth.div_ceil(GROUP).max(1);
        Self { count, len: depth.div_ceil(count).next_multiple_of(QUAD) }
    }

    fn padded(self) -> usize {
        self.count * self.len
    }
}

/// A frozen right operand `(depth, columns)` in panels of 48 columns; four values of the depth lie together.
pub(crate) struct Quantised {
    depth: usize,
    columns: usize,
    groups: Groups,
    /// `(panels, padded depth / 4, 48, 4)`
    values: Aligned<i8>,
    /// `-128 * sum` over each group: `(panels, groups, 48)`
    offsets: Aligned<i32>,
    /// One for each column: `(panels, 48)`
    scales: Aligned<f32>,
}

impl Quantised {
    /// Quantises and packs the transpose of `weight (n, k)`, for `x W^T`: depth k, n columns.
    pub fn transposed(threads: &Threads, weight: &Frozen, n: usize, k: usize) -> Self {
        assert_eq!(weight.len(), n * k, "extents of a frozen matrix");
        let mut all = Self::zeros(k, n);
        let (values, scales) = (Shared::new(&mut all.values), Shared::new(&mut all.scales));
        let panel_len = all.groups.padded() * COLUMNS;
        threads.for_each(n.div_ceil(COLUMNS), |panel| {
            // SAFETY: each panel belongs to one piece.
            let (values, scales) = unsafe {
                (values.slice(panel * panel_len, panel_len), scales.slice(panel * COLUMNS, COLUMNS))
            };
            let mut row = vec![0.0; k];
            for j in 0..COLUMNS.min(n - panel * COLUMNS) {
                let column = panel * COLUMNS + j;
                weight.read(column * k..(column + 1) * k, &mut row);
                let top = row.iter().fold(0f32, |top, v| top.max(v.abs()));
                scales[j] = top / 127.0;
                let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
                for (l, value) in row.iter().enumerate() {
                    values[(l / QUAD * COLUMNS + j) * QUAD + l % QUAD] =
                        (value * inverse + ROUND).to_bits() as i8;
                }
            }
        });
        all.sum_up();
        all
    }

    /// The same integers for the product with the transpose. Its column scales are 1: those of the weights belong to
    /// the left operand now, see [`Quantised::scales`].
    #[must_use]
    pub fn turned(&self, threads: &Threads) -> Self {
        let mut all = Self::zeros(self.columns, self.depth);
        all.scales.fill(1.0);
        let panel_len = all.groups.padded() * COLUMNS;
        let values = Shared::new(&mut all.values);
        threads.for_each(self.depth.div_ceil(COLUMNS), |panel| {
            // SAFETY: each panel belongs to one piece.
            let values = unsafe { values.slice(panel * panel_len, panel_len) };
            let columns = COLUMNS.min(self.depth - panel * COLUMNS);
            for l in 0..self.columns {
                for j in 0..columns {
                    values[(l / QUAD * COLUMNS + j) * QUAD + l % QUAD] =
                        self.values[self.place(panel * COLUMNS + j, l)];
                }
            }
        });
        all.sum_up();
        all
    }

    fn zeros(depth: usize, columns: usize) -> Self {
        let (groups, panels) = (Groups::of(depth), columns.div_ceil(COLUMNS));
        Self {
            depth,
            columns,
            groups,
            values: Aligned::zeros(panels * groups.padded() * COLUMNS),
            offsets: Aligned::zeros(panels * groups.count * COLUMNS),
            scales: Aligned::zeros(panels * COLUMNS),
        }
    }

    fn sum_up(&mut self) {
        let group = self.groups.len * COLUMNS;
        for (offsets, values) in self.offsets.chunks_exact_mut(COLUMNS).zip(self.values.chunks_exact(group)) {
            for row in values.as_chunks::<{ COLUMNS * QUAD }>().0 {
                for (offset, quad) in offsets.iter_mut().zip(row.as_chunks::<QUAD>().0) {
                    *offset -= 128 * quad.iter().map(|&v| i32::from(v)).sum::<i32>();
                }
            }
        }
    }

    /// Where the value of step `l` of the depth and column `j` lies.
    fn place(&self, l: usize, j: usize) -> usize {
        let panel = j / COLUMNS * self.groups.padded() * COLUMNS;
        panel + (l / QUAD * COLUMNS + j % COLUMNS) * QUAD + l % QUAD
    }

    /// `(depth, columns)`
    pub fn extents(&self) -> (usize, usize) {
        (self.depth, self.columns)
    }

    /// The scale of each column, `(columns)`.
    pub fn scales(&self) -> &[f32] {
        &self.scales[..self.columns]
    }

    /// Column `column` as f32.
    pub fn column(&self, column: usize, to: &mut [f32]) {
        for (l, to) in to.iter_mut().enumerate() {
            *to = f32::from(self.values[self.place(l, column)]) * self.scales[column];
        }
    }
}

multiversion! {
    /// Quantises one group to `round(127 x / max |x|) + 128`; returns its scale.
    fn quantise_group(to: &mut [u8], x: &[f32]) -> f32 {
        let mut lanes = [0f32; 16];
        let (whole, rest) = x.as_chunks::<16>();
        for chunk in whole {
            for i in 0..16 {
                lanes[i] = if chunk[i].abs() > lanes[i] { chunk[i].abs() } else { lanes[i] };
            }
        }
        let top = rest.iter().map(|v| v.abs()).chain(lanes).fold(0f32, |a, b| if b > a { b } else { a });
        let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
        for (to, x) in to.iter_mut().zip(x) {
            // The low byte holds the integer in two's complement; flipping its top bit adds 128.
            *to = (x * inverse + ROUND).to_bits() as u8 ^ 0x80;
        }
        top / 127.0
    }

    /// What quantising left over.
    fn subtract_group(x: &mut [f32], bytes: &[u8], scale: f32) {
        for (x, &byte) in x.iter_mut().zip(bytes) {
            *x -= (i32::from(byte) - 128) as f32 * scale;
        }
    }
}

/// How finely the left operand is quantised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Terms {
    /// 8 bits: for activations and for gradients inside the network.
    One = 1,
    /// About 15 bits, for twice the work: for `softmax - onehot`, where one large value would push all small ones,
    /// which together weigh as much, to 0. With one term training stalls; with two it follows f32.
    Two = 2,
}

/// A quantised left operand.
#[derive(Default)]
struct Left {
    /// `(terms, rows, padded depth)`
    values: Aligned<u8>,
    /// `(terms, rows, groups)`
    scales: Aligned<f32>,
}

impl Left {
    fn fill(&mut self, threads: &Threads, x: &[f32], k: usize, factor: Option<&[f32]>, terms: Terms) {
        let (t, groups, terms) = (x.len() / k, Groups::of(k), terms as usize);
        let padded = groups.padded();
        let values = Shared::new(self.values.fit(terms * t * padded));
        let scales = Shared::new(self.scales.fit(terms * t * groups.count));
        const PIECE: usize = 1 << 15;
        let rows = (PIECE / k).max(1);
        threads.for_each(t.div_ceil(rows), |piece| {
            let mut rest = [0f32; GROUP + QUAD];
            for row in piece * rows..((piece + 1) * rows).min(t) {
                for group in 0..groups.count {
                    let range = group * groups.len..((group + 1) * groups.len).min(k);
                    let x = &x[row * k..][range.clone()];
                    let rest = &mut rest[..range.len()];
                    match factor {
                        Some(factor) => {
                            let factor = &factor[range.clone()];
                            rest.iter_mut().zip(x).zip(factor).for_each(|((to, x), factor)| *to = x * factor);
                        }
                        None => rest.copy_from_slice(x),
                    }
                    for row in (row..terms * t).step_by(t) {
                        // SAFETY: each row belongs to one piece, for all its terms.
                        let (to, scale) = unsafe {
                            (
                                values.slice(row * padded + range.start, range.len()),
                                scales.slice(row * groups.count + group, 1),
                            )
                        };
                        scale[0] = quantise_group(to, rest);
                        if terms > 1 {
                            subtract_group(rest, to, scale[0]);
                        }
                    }
                }
            }
        });
    }
}

thread_local! {
    /// The left operand of the product under way.
    static LEFT: RefCell<Left> = const { RefCell::new(Left { values: Aligned::empty(), scales: Aligned::empty() }) };
    /// A tile whose edge is cut off.
    static EDGE: RefCell<[f32; ROWS * COLUMNS]> = const { RefCell::new([0.0; ROWS * COLUMNS]) };
}

/// `out (t, n) (+)= (x * factor) (t, k) b (k, n)`, with `x` dense and `factor (k)` all ones when `None`.
///
/// # Panics
/// When the extents do not match.
pub(crate) fn gemm_int8(
    threads: &Threads,
    out: MatMut,
    x: &[f32],
    factor: Option<&[f32]>,
    terms: Terms,
    b: &Quantised,
    accumulate: bool,
) {
    let (k, n) = b.extents();
    let (m, out_columns, stride) = out.extents();
    assert!(x.len() == m * k && out_columns == n && m > 0, "extents of a matrix product");
    assert!(factor.is_none_or(|f| f.len() == k), "one factor for each step of the depth");
    let isa = Isa::chosen();
    let groups = b.groups;
    LEFT.with_borrow_mut(|left| {
        left.fill(threads, x, k, factor, terms);
        let (values, scales) = (&left.values[..], &left.scales[..]);
        // One instruction does four times the work of an f32 one.
        let cut = Cut::new(m, n, k / QUAD);
        let shared = Shared::new(out.into_data());
        threads.for_each(cut.pieces(), |piece| {
            let (panels, rows) = cut.piece(piece, m, n);
            for panel in panels {
                let wanted = COLUMNS.min(n - panel * COLUMNS);
                for (group, term) in (0..groups.count).flat_map(|g| (0..terms as usize).map(move |t| (g, t)))
                {
                    let place = panel * groups.count + group;
                    for row in rows.clone().step_by(ROWS) {
                        let left_row = term * m + row;
                        let tile = Tile {
                            a: values[left_row * groups.padded() + group * groups.len..].as_ptr(),
                            a_row: groups.padded(),
                            a_scale: scales[left_row * groups.count + group..].as_ptr(),
                            a_scale_row: groups.count,
                            b: b.values[place * groups.len * COLUMNS..].as_ptr(),
                            b_offset: b.offsets[place * COLUMNS..].as_ptr(),
                            b_scale: b.scales[panel * COLUMNS..].as_ptr(),
                            c: shared.pointer(row * stride + panel * COLUMNS),
                            c_row: stride,
                            rows: ROWS.min(rows.end - row),
                            columns: wanted.next_multiple_of(LANES),
                            quads: groups.len / QUAD,
                            accumulate: accumulate || group + term > 0,
                        };
                        // SAFETY: the left operand has `m` rows for each term, panels and groups lie inside `b`, `MatMut` checked
                        // the output, pieces cover disjoint tiles of it, and the set is the chosen one.
                        unsafe {
                            if tile.columns == wanted {
                                tile.run(isa);
                            } else {
                                EDGE.with_borrow_mut(|edge| tile.cut_off(wanted, edge, isa));
                            }
                        }
                    }
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, random};

    #[test]
    fn groups_cover_the_depth_in_equal_quads() {
        assert_eq!(Groups::of(576), Groups { count: 3, len: 192 });
        assert_eq!(Groups::of(172), Groups { count: 1, len: 172 });
        assert_eq!(Groups::of(5), Groups { count: 1, len: 8 });
        assert_eq!(Groups::of(200), Groups { count: 2, len: 100 });
    }

    #[test]
    fn quantising_is_within_half_a_step_and_keeps_zeros() {
        let x = random(200, "x");
        let mut bytes = [0u8; 200];
        let scale = quantise_group(&mut bytes, &x);
        for (byte, x) in bytes.iter().zip(&x) {
            assert!(((f32::from(*byte) - 128.0) * scale - x).abs() <= 0.501 * scale);
        }
        assert_eq!(quantise_group(&mut bytes, &[0.0; 200]), 0.0);
        assert!(bytes.iter().all(|&byte| byte == 128));
    }

    /// The product of the quantised operands, in f64.
    fn reference(x: &[f32], factor: Option<&[f32]>, b: &Quantised, t: usize) -> Vec<f32> {
        let (k, n) = b.extents();
        let mut left = Left::default();
        left.fill(&Threads::one(), x, k, factor, Terms::One);
        let groups = b.groups;
        let mut columns = vec![0f32; n * k];
        columns.chunks_exact_mut(k).enumerate().for_each(|(j, column)| b.column(j, column));
        (0..t * n)
            .map(|at| {
                let (i, j) = (at / n, at % n);
                let sum: f64 = (0..k)
                    .map(|l| {
                        let value = f64::from(left.values[i * groups.padded() + l]) - 128.0;
                        let scale = f64::from(left.scales[i * groups.count + l / groups.len]);
                        value * scale * f64::from(columns[j * k + l])
                    })
                    .sum();
                sum as f32
            })
            .collect()
    }

    #[test]
    fn both_orientations_match_the_reference_and_stay_near_the_exact_product() {
        for (t, n, k) in [(1, 1, 1), (3, 50, 7), (9, 96, 600), (17, 131, 200)] {
            let (x, dy, weight) = (random(t * k, "x"), random(t * n, "dy"), random(n * k, "w"));
            let threads = Threads::new(2).unwrap();
            let forward = Quantised::transposed(&threads, &Frozen::F32(weight.clone()), n, k);
            let backward = forward.turned(&threads);
            let mut y = vec![f32::NAN; t * n];
            gemm_int8(&threads, MatMut::new(&mut y, t, n), &x, None, Terms::One, &forward, false);
            assert_close(&y, &reference(&x, None, &forward, t), 2e-6, "x W^T");
            let exact: Vec<f32> = (0..t * n)
                .map(|at| (0..k).map(|l| x[at / n * k + l] * weight[at % n * k + l]).sum())
                .collect();
            assert_close(&y, &exact, 0.02, "x W^T before quantising");
            let quantised: Vec<f32> = {
                let mut rows = vec![0f32; n * k];
                rows.chunks_exact_mut(k).enumerate().for_each(|(j, row)| forward.column(j, row));
                (0..t * n).map(|at| (0..k).map(|l| x[at / n * k + l] * rows[at % n * k + l]).sum()).collect()
            };
            gemm_int8(&threads, MatMut::new(&mut y, t, n), &x, None, Terms::Two, &forward, false);
            assert_close(&y, &quantised, 1e-4, "x W^T in two terms");

            let mut dx = random(t * k, "dx");
            let mut expected = reference(&dy, Some(forward.scales()), &backward, t);
            expected.iter_mut().zip(&dx).for_each(|(sum, before)| *sum += before);
            gemm_int8(
                &threads,
                MatMut::new(&mut dx, t, k),
                &dy,
                Some(forward.scales()),
                Terms::One,
                &backward,
                true,
            );
            assert_close(&dx, &expected, 2e-6, "dx += dy W");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_integers_for_every_extent() {
        let quads = 9;
        let a: Vec<u8> = (0..ROWS * quads * QUAD).map(|i| (i * 89 % 255 + 1) as u8).collect();
        let b: Vec<i8> = (0..quads * COLUMNS * QUAD).map(|i| ((i * 57 % 255) as i32 - 127) as i8).collect();
        let (a_scale, b_scale) = (random(ROWS, "a"), random(COLUMNS, "b"));
        let mut b_offset = [0i32; COLUMNS];
        for (at, &value) in b.iter().enumerate() {
            b_offset[at / QUAD % COLUMNS] -= 128 * i32::from(value);
        }
        for rows in 1..=ROWS {
            for columns in [16, 32, 48] {
                for accumulate in [false, true] {
                    let before = random(rows * COLUMNS, "c");
                    let mut expected = before.clone();
                    for at in (0..rows * COLUMNS).filter(|at| at % COLUMNS < columns) {
                        let (i, j) = (at / COLUMNS, at % COLUMNS);
                        let sum: i32 = (0..quads * QUAD)
                            .map(|l| {
                                let b = b[(l / QUAD * COLUMNS + j) * QUAD + l % QUAD];
                                (i32::from(a[i * quads * QUAD + l]) - 128) * i32::from(b)
                            })
                            .sum();
                        let old = if accumulate { before[at] } else { 0.0 };
                        expected[at] = (sum as f32 * a_scale[i]).mul_add(b_scale[j], old);
                    }
                    for isa in Isa::tested() {
                        let mut c = before.clone();
                        let tile = Tile {
                            a: a.as_ptr(),
                            a_row: quads * QUAD,
                            a_scale: a_scale.as_ptr(),
                            a_scale_row: 1,
                            b: b.as_ptr(),
                            b_offset: b_offset.as_ptr(),
                            b_scale: b_scale.as_ptr(),
                            c: c.as_mut_ptr(),
                            c_row: COLUMNS,
                            rows,
                            columns,
                            quads,
                            accumulate,
                        };
                        // SAFETY: the extents are those of the vectors above.
                        unsafe { tile.run(isa) };
                        if isa == Isa::Portable {
                            assert_close(&c, &expected, 1e-6, isa.name());
                        } else {
                            assert_eq!(c, expected, "{} {rows} x {columns}", isa.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (t, n, k) = (100, 500, 300);
        let (x, weight) = (random(t * k, "x"), random(n * k, "w"));
        let run = |threads: &Threads| {
            let packed = Quantised::transposed(threads, &Frozen::F32(weight.clone()), n, k);
            let mut y = vec![0f32; t * n];
            gemm_int8(threads, MatMut::new(&mut y, t, n), &x, None, Terms::One, &packed, false);
            y
        };
        assert_eq!(run(&Threads::one()), run(&Threads::new(2).unwrap()));
        assert_eq!(run(&Threads::one()), run(&Threads::new(3).unwrap()));
    }
}
