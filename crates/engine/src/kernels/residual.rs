//! A branch joins the residual stream; what a later pass needs of the stream is kept on the way.

use super::Shared;
use crate::threads::Threads;

/// Values in one piece of work.
const PIECE: usize = 1 << 15;

/// `x += branch`, and a copy of the sum in `kept` where that is wanted.
pub(crate) fn residual_forward(threads: &Threads, x: &mut [f32], branch: &[f32], kept: Option<&mut [f32]>) {
    let len = x.len();
    assert!(branch.len() == len && kept.as_ref().is_none_or(|kept| kept.len() == len), "residual extents");
    let (x, kept) = (Shared::new(x), kept.map(Shared::new));
    threads.for_each(len.div_ceil(PIECE), |piece| {
        let from = piece * PIECE;
        let count = PIECE.min(len - from);
        // SAFETY: pieces are disjoint ranges.
        let x = unsafe { x.slice(from, count) };
        x.iter_mut().zip(&branch[from..]).for_each(|(x, branch)| *x += branch);
        if let Some(kept) = &kept {
            // SAFETY: as above.
            unsafe { kept.slice(from, count) }.copy_from_slice(x);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::random;

    #[test]
    fn the_sum_is_in_the_stream_and_in_the_copy() {
        let n = PIECE + 5;
        let (mut x, branch) = (random(n, "x"), random(n, "branch"));
        let sum: Vec<f32> = x.iter().zip(&branch).map(|(x, b)| x + b).collect();
        let mut kept = vec![0.0; n];
        residual_forward(&Threads::new(2).unwrap(), &mut x, &branch, Some(&mut kept));
        assert_eq!(x, sum);
        assert_eq!(kept, sum);
        residual_forward(&Threads::one(), &mut x, &branch, None);
        assert_eq!(x[n - 1], sum[n - 1] + branch[n - 1]);
    }
}
