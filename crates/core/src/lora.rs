//! Which LoRA is trained: rank, alpha, dropout and the matrices it stands beside, in PEFT's terms.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A linear layer of a Llama block that can carry an adapter. The order is that of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// `self_attn.q_proj`
    Q,
    /// `self_attn.k_proj`
    K,
    /// `self_attn.v_proj`
    V,
    /// `self_attn.o_proj`
    O,
    /// `mlp.gate_proj`
    Gate,
    /// `mlp.up_proj`
    Up,
    /// `mlp.down_proj`
    Down,
}

impl Target {
    /// Every target, in forward order.
    pub const ALL: [Target; 7] =
        [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];

    /// The module's name as Hugging Face and PEFT write it, `q_proj` for example.
    pub fn module(self) -> &'static str {
        match self {
            Target::Q => "q_proj",
            Target::K => "k_proj",
            Target::V => "v_proj",
            Target::O => "o_proj",
            Target::Gate => "gate_proj",
            Target::Up => "up_proj",
            Target::Down => "down_proj",
        }
    }

    /// The module's path inside a block, `self_attn.q_proj` for example.
    pub fn path(self) -> &'static str {
        match self {
            Target::Q => "self_attn.q_proj",
            Target::K => "self_attn.k_proj",
            Target::V => "self_attn.v_proj",
            Target::O => "self_attn.o_proj",
            Target::Gate => "mlp.gate_proj",
            Target::Up => "mlp.up_proj",
            Target::Down => "mlp.down_proj",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.module())
    }
}

impl FromStr for Target {
    type Err = String;

    /// Accepts `q_proj` and the short form `q`.
    fn from_str(text: &str) -> Result<Self, String> {
        Target::ALL
            .into_iter()
            .find(|t| t.module() == text || t.module().strip_suffix("_proj") == Some(text))
            .ok_or_else(|| {
                let known: Vec<&str> = Target::ALL.iter().map(|t| t.module()).collect();
                format!("unknown LoRA target '{text}'; known are {}", known.join(", "))
            })
    }
}

impl TryFrom<String> for Target {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.module().to_owned()
    }
}

/// A LoRA configuration. Forward: `y = W x + s B A dropout(x)` (Hu et al. 2021, arXiv:2106.09685, eq. 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// r: the rows of A and columns of B.
    pub rank: usize,
    /// alpha: the numerator of the scale.
    pub alpha: f32,
    /// Probability that an input of A is zeroed while training; the rest is scaled by 1 / (1 - p).
    pub dropout: f32,
    /// The matrices that carry an adapter.
    pub targets: BTreeSet<Target>,
    /// Scale by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023, arXiv:2312.03732).
    #[serde(default)]
    pub rslora: bool,
}

impl Default for LoraConfig {
    /// The reference experiment's: rank 8, alpha 16, dropout 0.1, `q_proj` and `v_proj`.
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.1, targets: [Target::Q, Target::V].into(), rslora: false }
    }
}

impl LoraConfig {
    /// s, the factor of B A: alpha / r, or alpha / sqrt(r) with rsLoRA.
    pub fn scale(&self) -> f32 {
        if self.rslora { self.alpha / (self.rank as f32).sqrt() } else { self.alpha / self.rank as f32 }
    }

    /// Checks the ranges of every field.
    ///
    /// # Errors
    /// A sentence that names the field, its value and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        if self.rank == 0 {
            return Err("LoRA rank is 0; it must be at least 1".into());
        }
        if !self.alpha.is_finite() || self.alpha <= 0.0 {
            return Err(format!("LoRA alpha is {}; it must be a positive number", self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(format!("LoRA dropout is {}; it must be at least 0 and below 1", self.dropout));
        }
        if self.targets.is_empty() {
            return Err("LoRA has no targets; name at least one of q_proj .. down_proj".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_parse_in_long_and_short_form_and_refuse_the_unknown_by_name() {
        assert_eq!("gate_proj".parse(), Ok(Target::Gate));
        assert_eq!("q".parse(), Ok(Target::Q));
        assert!("lm_head".parse::<Target>().unwrap_err().contains("lm_head"));
    }

    #[test]
    fn the_scale_follows_alpha_over_r_and_rslora() {
        let mut config = LoraConfig { rank: 4, alpha: 16.0, ..LoraConfig::default() };
        assert_eq!(config.scale(), 4.0);
        config.rslora = true;
        assert_eq!(config.scale(), 8.0);
    }
}
