//! One file per operation, each with its forward, its backward where it has one, a naive reference and a test that
//! they agree. All `unsafe` of the project lives here, each block with the reason why it is sound.

pub(crate) mod adamw;
pub(crate) mod aligned;
pub(crate) mod attention;
pub(crate) mod decode;
pub(crate) mod dropout;
pub(crate) mod gemm;
pub(crate) mod int8;
pub mod isa;
pub(crate) mod loss;
#[cfg(all(test, not(target_arch = "aarch64")))]
pub(crate) mod neon_model;
pub(crate) mod packed;
pub(crate) mod pool;
pub(crate) mod probe;
pub(crate) mod residual;
pub(crate) mod rmsnorm;
pub(crate) mod rope;
pub(crate) mod simd;
pub(crate) mod swiglu;
pub(crate) mod tile;

use std::fs::File;

use memmap2::Mmap;

/// Maps a weight file read-only.
///
/// # Errors
/// The system's.
pub(crate) fn map_file(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only. Were another process to truncate a model's file while it is loaded, the read
    // would fault and end the process; no other guarantee of ours rests on the bytes, which are checked and copied.
    unsafe { Mmap::map(file) }
}

/// A slice that several pieces of work write to at the same time, each to places of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: a `Shared` only hands out memory through `slice`, whose caller promises that pieces do not overlap.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(data: &mut [T]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len() }
    }

    /// The elements `from..from + len`.
    ///
    /// # Safety
    /// The memory behind the slice given to [`Shared::new`] is still borrowed for it, and no other live reference
    /// covers any of these elements.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice<'a>(&self, from: usize, len: usize) -> &'a mut [T] {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len), "piece outside the shared slice");
        // SAFETY: in bounds by the assertion; unaliased and alive by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }

    /// The address of element `from`.
    pub fn pointer(&self, from: usize) -> *mut T {
        assert!(from < self.len, "piece outside the shared slice");
        // `wrapping_add` needs no promise; the assertion keeps it in bounds.
        self.start.wrapping_add(from)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Random data and comparison for kernel tests.

    use consilium_core::rng::SeededRng;

    pub fn random(len: usize, purpose: &str) -> Vec<f32> {
        let mut rng = SeededRng::derive(1, 0, "", purpose);
        (0..len).map(|_| rng.normal() as f32).collect()
    }

    /// Panics unless all values agree within `tolerance` of the largest magnitude.
    pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}: length");
        let scale = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= tolerance * scale, "{what}[{i}]: {a} instead of {b} (scale {scale})");
        }
    }
}
