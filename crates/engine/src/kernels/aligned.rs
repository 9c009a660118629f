//! Buffers whose first byte lies on a cache line, so that no 512-bit load straddles two.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Number types for which all bits 0 is the value 0 and every pattern is valid.
pub(crate) trait Plain: Copy + Send + Sync {}
impl Plain for f32 {}
impl Plain for u16 {}
impl Plain for i8 {}
impl Plain for u8 {}
impl Plain for i32 {}

/// A zeroed, growing list on cache lines.
#[derive(Clone)]
pub(crate) struct Aligned<T> {
    lines: Vec<Line>,
    len: usize,
    kind: PhantomData<T>,
}

impl<T: Plain> Aligned<T> {
    /// Nothing yet.
    pub const fn empty() -> Self {
        Self { lines: Vec::new(), len: 0, kind: PhantomData }
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let mut all = Self::empty();
        all.fit(len);
        all
    }

    /// The first `len` values, after growing where that is necessary. Old values may remain.
    pub fn fit(&mut self, len: usize) -> &mut [T] {
        if len > self.len {
            self.lines.resize((len * size_of::<T>()).div_ceil(64), Line([0; 64]));
            self.len = len;
        }
        &mut self[..len]
    }
}

impl<T: Plain> Default for Aligned<T> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `len` values, are aligned for each `Plain` type, and any bits are valid.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; `self` is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_on_a_line_grows_zeroed_and_keeps_values() {
        let mut list = Aligned::<u16>::empty();
        assert!(list.is_empty());
        list.fit(40)[39] = 7;
        assert_eq!(list.fit(100)[39], 7);
        assert_eq!((list.len(), list[99]), (100, 0));
        assert_eq!(list.as_ptr() as usize % 64, 0);
    }
}
