//! The engine's own thread pool. Work is cut into pieces by shape; the pool only decides who does a piece.

use std::sync::Arc;

use rayon::prelude::*;

/// A pool of a fixed number of threads, or the calling thread alone.
#[derive(Clone)]
pub(crate) struct Threads(Option<Arc<rayon::ThreadPool>>);

impl Threads {
    /// The calling thread alone.
    pub fn one() -> Self {
        Self(None)
    }

    /// A pool of `count` threads; no pool at all for one.
    ///
    /// # Errors
    /// When the system refuses to start threads.
    pub fn new(count: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        if count <= 1 {
            return Ok(Self::one());
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|i| format!("engine-{i}"))
            .build()?;
        Ok(Self(Some(Arc::new(pool))))
    }

    /// Runs `work` inside the pool, so that [`Threads::for_each`] in it need not hand over.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Calls `piece` for each of `0..count`, in any order and possibly at the same time.
    pub fn for_each(&self, count: usize, piece: impl Fn(usize) + Sync + Send) {
        match &self.0 {
            Some(pool) if count > 1 => {
                pool.install(|| (0..count).into_par_iter().with_max_len(1).for_each(piece))
            }
            _ => (0..count).for_each(piece),
        }
    }

    /// Calls `work` for each item, in any order and possibly at the same time.
    pub fn for_each_mut<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync + Send) {
        match &self.0 {
            Some(pool) if items.len() > 1 => {
                pool.install(|| items.par_iter_mut().with_max_len(1).for_each(work))
            }
            _ => items.iter_mut().for_each(work),
        }
    }
}
