//! The engine's own threads. Work is cut into pieces by shape; the pool only decides who does a piece.

use std::sync::{Arc, Mutex, PoisonError};

use crate::kernels::pool::Pool;

/// A fixed number of threads, the calling one among them.
#[derive(Clone)]
pub(crate) struct Threads(Option<Arc<Pool>>);

impl Threads {
    /// The calling thread alone.
    pub fn one() -> Self {
        Self(None)
    }

    /// `count` threads.
    ///
    /// # Errors
    /// When the system refuses to start them.
    pub fn new(count: usize) -> std::io::Result<Self> {
        match count {
            0 | 1 => Ok(Self::one()),
            _ => Ok(Self(Some(Arc::new(Pool::new(count - 1)?)))),
        }
    }

    /// Calls `piece` for each of `0..count`, in any order and possibly at the same time.
    pub fn for_each(&self, count: usize, piece: impl Fn(usize) + Sync) {
        match &self.0 {
            Some(pool) if count > 1 => pool.for_each(count, &piece),
            _ => (0..count).for_each(piece),
        }
    }

    /// Calls `work` for each item, in any order and possibly at the same time.
    pub fn for_each_mut<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync) {
        // Each lock is taken once; it only tells the compiler what the pool promises.
        let items: Vec<Mutex<&mut T>> = items.iter_mut().map(Mutex::new).collect();
        self.for_each(items.len(), |i| work(&mut items[i].lock().unwrap_or_else(PoisonError::into_inner)));
    }
}
