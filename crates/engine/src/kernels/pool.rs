//! A pool of threads for work that comes in thousands of short pieces a second.
//!
//! A training step has some 3,000 parallel sections of a tenth of a millisecond. A pool that puts its threads to sleep
//! in between spends a fifth of its time on waking them; here they spin for a moment first, and only then sleep.
//!
//! One word holds the number of the job, its pieces and the next of them to take. A thread that takes a piece from it
//! by compare-and-swap knows that the job is not over, since this piece was not, so everything it belongs to is alive.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Looks at the word before a thread goes to sleep: about a millisecond.
const SPINS: u32 = 2_000;
/// Looks after which a waiting thread begins to offer its core to others.
const PATIENCE: u32 = 500;

/// A job, on the stack of the thread that waits for it.
struct Job<'a> {
    piece: &'a (dyn Fn(usize) + Sync),
}

#[derive(Default)]
struct State {
    /// See [`Word`].
    word: AtomicU64,
    /// Pieces that are done.
    done: AtomicU32,
    job: AtomicPtr<()>,
    /// Some piece panicked.
    failed: AtomicBool,
    ending: AtomicBool,
    sleepers: AtomicU32,
    bed: Mutex<()>,
    alarm: Condvar,
}

/// Number of the job (32 bits), its pieces (16) and the next one (16).
#[derive(Clone, Copy)]
struct Word(u64);

/// Most pieces that a word can count.
const MOST: usize = u16::MAX as usize;

impl Word {
    fn new(job: u32, pieces: u16) -> Self {
        Self(u64::from(job) << 32 | u64::from(pieces) << 16)
    }

    fn job(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The next piece, if one is left.
    fn piece(self) -> Option<usize> {
        let (pieces, next) = ((self.0 >> 16) as u16, self.0 as u16);
        (next < pieces).then_some(usize::from(next))
    }
}

impl State {
    fn word(&self) -> Word {
        Word(self.word.load(Ordering::SeqCst))
    }

    /// Takes pieces until none is left.
    fn work(&self) {
        loop {
            let word = self.word();
            let Some(piece) = word.piece() else { return };
            let job = self.job.load(Ordering::Acquire);
            if self.word.compare_exchange(word.0, word.0 + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                std::hint::spin_loop();
                continue;
            }
            // SAFETY: the swap succeeded, so the word, and with it the job, was the same all the while, and the job is
            // not over before this piece is counted as done: the pointer is that job's, and its thread waits.
            let job = unsafe { &*job.cast::<Job<'_>>() };
            if catch_unwind(AssertUnwindSafe(|| (job.piece)(piece))).is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    /// What a thread of the pool does all its life.
    fn live(&self) {
        let mut seen = 0;
        while !self.ending.load(Ordering::Acquire) {
            self.work();
            let mut spins = 0;
            // A new job, or an end, changes the number of the job.
            while self.word().job() == seen {
                spins += 1;
                if spins < SPINS {
                    pause(spins);
                } else {
                    self.sleep(seen);
                }
            }
            seen = self.word().job();
        }
    }

    fn sleep(&self, seen: u32) {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.word().job() == seen {
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Publishes a job and wakes whoever sleeps.
    fn announce(&self, word: Word) {
        self.word.store(word.0, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.alarm.notify_all();
        }
    }
}

fn pause(spins: u32) {
    if spins < PATIENCE {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// Threads that help the one that has work.
pub(crate) struct Pool {
    state: Arc<State>,
    /// Number of the last job; locked by whoever uses the pool.
    turn: Mutex<u32>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `helpers` threads beside the caller's own.
    ///
    /// # Errors
    /// When the system refuses to start a thread.
    pub fn new(helpers: usize) -> std::io::Result<Self> {
        let mut pool = Self { state: Arc::default(), turn: Mutex::new(0), threads: Vec::new() };
        for i in 0..helpers {
            let state = Arc::clone(&pool.state);
            let thread =
                std::thread::Builder::new().name(format!("engine-{i}")).spawn(move || state.live())?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Calls `piece` for each of `0..count`, in any order and possibly at the same time; returns when all are done.
    /// A call from inside a piece, or while another thread uses the pool, does everything itself.
    ///
    /// # Panics
    /// When a piece does.
    pub fn for_each(&self, count: usize, piece: &(dyn Fn(usize) + Sync)) {
        let Ok(mut turn) = self.turn.try_lock() else {
            (0..count).for_each(piece);
            return;
        };
        for from in (0..count).step_by(MOST) {
            let pieces = (count - from).min(MOST) as u16;
            *turn = turn.wrapping_add(1);
            if self.run(Word::new(*turn, pieces), u32::from(pieces), &|i| piece(from + i)) {
                // Released before a panic leaves, so that it does not poison the lock.
                drop(turn);
                resume_unwind(Box::new("a piece of parallel work panicked"));
            }
        }
    }

    /// Runs one job; whether a piece of it panicked.
    fn run(&self, word: Word, pieces: u32, piece: &(dyn Fn(usize) + Sync)) -> bool {
        let state = &*self.state;
        let job = Job { piece };
        state.failed.store(false, Ordering::Relaxed);
        state.done.store(0, Ordering::Relaxed);
        state.job.store((&raw const job).cast_mut().cast(), Ordering::Release);
        state.announce(word);
        state.work();
        let mut spins = 0;
        while state.done.load(Ordering::Acquire) < pieces {
            spins += 1;
            pause(spins);
        }
        state.failed.load(Ordering::Relaxed)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let turn = *self.turn.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.state.ending.store(true, Ordering::Release);
        self.state.announce(Word::new(turn.wrapping_add(1), 0));
        for thread in self.threads.drain(..) {
            // A thread of the pool catches what its pieces throw; there is nothing more to learn from it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Miri runs a thousand times slower.
    const JOBS: usize = if cfg!(miri) { 20 } else { 20_000 };

    #[test]
    fn every_piece_of_every_job_is_done_once() {
        let pool = Pool::new(3).unwrap();
        for job in 0..JOBS {
            let count = job % 7;
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            pool.for_each(count, &|i| {
                done[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1), "job {job}");
            if job % (JOBS / 10) == 0 {
                // Long enough for everybody to fall asleep.
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        }
    }

    #[test]
    fn more_pieces_than_a_word_counts_are_done_too() {
        let pool = Pool::new(1).unwrap();
        let (count, total) = (if cfg!(miri) { 10 } else { MOST + 3 }, AtomicUsize::new(0));
        pool.for_each(count, &|i| {
            total.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), count * (count - 1) / 2);
    }

    #[test]
    fn work_inside_work_and_from_two_threads_is_done_too() {
        let pool = Pool::new(2).unwrap();
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        pool.for_each(4, &|_| {
                            pool.for_each(3, &|_| {
                                total.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 2 * 10 * 4 * 3);
    }

    #[test]
    fn a_panic_reaches_the_caller_after_all_pieces_and_the_pool_goes_on() {
        let pool = Pool::new(1).unwrap();
        let done = AtomicUsize::new(0);
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each(8, &|i| {
                if i == 3 {
                    resume_unwind(Box::new("on purpose"));
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        assert!(attempt.is_err());
        assert_eq!(done.load(Ordering::Relaxed), 7);
        pool.for_each(2, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 9);
    }
}
