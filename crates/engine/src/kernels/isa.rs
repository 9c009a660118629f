//! Which instruction set the kernels run with: the best that the processor has, or one that the user forces.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that kernels are written for, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// Plain Rust for any processor.
    Portable = 1,
    /// Arm's 128-bit vectors, on every aarch64.
    Neon,
    /// 256-bit vectors with fused multiply-add.
    Avx2,
    /// 512-bit vectors: the subsets F, BW, DQ and VL.
    Avx512,
    /// The same with the 8-bit dot product `vpdpbusd`.
    Avx512Vnni,
}

/// The choice; 0 before the first look.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// All, worst first.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Avx512Vnni];

    /// What the kernels run with.
    #[inline]
    pub fn chosen() -> Self {
        match CHOSEN.load(Ordering::Relaxed) {
            1 => Isa::Portable,
            2 => Isa::Neon,
            3 => Isa::Avx2,
            4 => Isa::Avx512,
            5 => Isa::Avx512Vnni,
            _ => {
                let best = Self::best();
                CHOSEN.store(best as u8, Ordering::Relaxed);
                best
            }
        }
    }

    /// Makes the kernels of this process run with `name`, for measuring and for finding faults. To be called before
    /// the first engine is made. f32 results may differ in the last bits between `portable` and the others.
    ///
    /// # Errors
    /// An unknown name, or one that this processor cannot run; the message lists those that it can.
    pub fn force(name: &str) -> Result<Self, String> {
        let can = || {
            let names: Vec<&str> = Self::available().map(Isa::name).collect();
            names.join(", ")
        };
        let isa = Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| format!("unknown instruction set '{name}'; this processor runs {}", can()))?;
        if !isa.is_available() {
            return Err(format!("this processor does not run {name}; it runs {}", can()));
        }
        CHOSEN.store(isa as u8, Ordering::Relaxed);
        Ok(isa)
    }

    /// Those that this processor runs, worst first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// Those whose bodies a test can run here: the processor's own, and NEON's on a model of its intrinsics.
    #[cfg(test)]
    pub(crate) fn tested() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available() || *isa == Isa::Neon)
    }

    /// As `CONSILIUM_ISA` spells it: `portable`, `neon`, `avx2`, `avx512` or `avx512-vnni`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512-vnni",
        }
    }

    fn best() -> Self {
        Self::available().last().unwrap_or(Isa::Portable)
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Neon => cfg!(target_arch = "aarch64") && !cfg!(miri),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Isa::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Isa::Avx512Vnni => {
                Isa::Avx512.is_available() && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(all(target_arch = "x86_64", not(miri))))]
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_refused_with_those_that_run_here() {
        let error = Isa::force("sse9").unwrap_err();
        assert!(error.contains("sse9") && error.contains("portable"), "{error}");
        assert!(Isa::available().any(|isa| isa == Isa::chosen()));
    }
}
