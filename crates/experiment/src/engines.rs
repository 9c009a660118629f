//! A fixed set of engines that threads borrow: several small ones side by side, or one with all threads.
//!
//! A tiny model leaves most of a second core idle inside one step, so several sites train at once, one thread each;
//! a large one fills the cores by itself and would need several sets of buffers, so sites take turns. Both
//! give the same bytes, since no result of an engine depends on its threads.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use consilium_core::LoraConfig;
use consilium_engine::{CpuEngine, Model};

use crate::error::ExperimentError;

/// Below so many parameters sites train side by side.
const SIDE_BY_SIDE_BELOW: usize = 20_000_000;

/// Engines to borrow.
pub struct Engines {
    free: Mutex<Vec<CpuEngine>>,
    returned: Condvar,
    count: usize,
}

impl Engines {
    /// Engines for at most `jobs` jobs at once on `threads` threads in all.
    ///
    /// # Errors
    /// When an engine cannot be made.
    pub fn new(
        model: &Arc<Model>,
        lora: &LoraConfig,
        threads: usize,
        jobs: usize,
    ) -> Result<Self, ExperimentError> {
        let side_by_side = model.info().parameters < SIDE_BY_SIDE_BELOW;
        let (count, each) = if side_by_side { (threads.min(jobs).max(1), 1) } else { (1, threads) };
        let engine =
            |_| CpuEngine::new(model.clone(), lora, each).map_err(ExperimentError::engine("starting"));
        let free = (0..count).map(engine).collect::<Result<_, _>>()?;
        Ok(Self { free: Mutex::new(free), returned: Condvar::new(), count })
    }

    /// Waits for a free engine and lends it to `job`.
    pub fn with<T>(&self, job: impl FnOnce(&mut CpuEngine) -> T) -> T {
        let mut loan = Loan { home: self, engine: Some(self.take()) };
        job(loan.engine.as_mut().expect("the loan holds its engine until it is dropped"))
    }

    fn take(&self) -> CpuEngine {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match free.pop() {
                Some(engine) => return engine,
                None => free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Does `job` for each of `items`, as many at once as there are engines; results in the items' order.
    ///
    /// # Errors
    /// The first error in the items' order; items not begun by then are left out.
    pub fn for_each<I: Sync, T: Send>(
        &self,
        items: &[I],
        job: impl Fn(&mut CpuEngine, &I) -> Result<T, ExperimentError> + Sync,
    ) -> Result<Vec<T>, ExperimentError> {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let results: Mutex<Vec<(usize, Result<T, ExperimentError>)>> = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.count.min(items.len()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        let Some(item) = items.get(index) else { break };
                        let result = self.with(|engine| job(engine, item));
                        if result.is_err() {
                            next.store(items.len(), std::sync::atomic::Ordering::SeqCst);
                        }
                        results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

/// Gives the engine back also when the job panics.
struct Loan<'a> {
    home: &'a Engines,
    engine: Option<CpuEngine>,
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.home.free.lock().unwrap_or_else(PoisonError::into_inner).extend(self.engine.take());
        self.home.returned.notify_one();
    }
}
