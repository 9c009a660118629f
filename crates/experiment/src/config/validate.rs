//! What a configuration may not say, and why.

use super::{Config, ConfigError, PARITY_NEW_TOKENS, PartitionConfig};

impl Config {
    /// Refuses values out of range and keys that exclude each other.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with the first offending key and the reason.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.refuse_reserved()?;
        self.lora.validate().map_err(|reason| ConfigError::Invalid { key: "lora", reason })?;
        self.validate_data()?;
        self.validate_train()?;
        self.validate_federation()?;
        self.validate_eval()?;
        require(i64::try_from(self.seed).is_ok(), "seed", || {
            format!("is {}; TOML holds at most {}", self.seed, i64::MAX)
        })
    }

    fn refuse_reserved(&self) -> Result<(), ConfigError> {
        let later = "does not exist yet, and nothing stands in for it: plain updates can leak training rows. Remove the key to go on without";
        for (key, reserved) in [
            ("secure_aggregation", self.secure_aggregation),
            ("differential_privacy", self.differential_privacy),
            ("federation.secure_aggregation", self.federation.secure_aggregation),
            ("federation.differential_privacy", self.federation.differential_privacy),
        ] {
            require(!reserved.given, key, || later.into())?;
        }
        Ok(())
    }

    fn validate_data(&self) -> Result<(), ConfigError> {
        let data = &self.data;
        require(data.train_rows != Some(0), "data.train_rows", || "is 0; a site needs rows".into())?;
        require(data.max_tokens >= 2, "data.max_tokens", || {
            format!("is {}; at least 2 are needed to predict anything", data.max_tokens)
        })?;
        let mut names = data.sites.clone();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        require(twice.is_none(), "data.sites", || format!("names '{}' twice", twice.unwrap()[0]))?;
        let reserved = names.iter().find(|name| name.is_empty() || *name == "all");
        require(reserved.is_none(), "data.sites", || {
            format!("a site may not be called '{}'", reserved.unwrap())
        })?;
        let counted = match &data.partition {
            PartitionConfig::Category => None,
            PartitionConfig::Iid { sites } | PartitionConfig::Dirichlet { sites, .. } => Some(*sites),
            PartitionConfig::Sizes { rows } => Some(rows.len()),
        };
        require(counted != Some(0), "data.partition", || "makes no site".into())?;
        if let Some(count) = counted
            && !data.sites.is_empty()
        {
            require(count == data.sites.len(), "data.sites", || {
                format!("names {} sites, but data.partition makes {count}", data.sites.len())
            })?;
        }
        if let PartitionConfig::Dirichlet { alpha, .. } = data.partition {
            require(alpha.is_finite() && alpha > 0.0, "data.partition", || {
                format!("alpha is {alpha}; it must be a positive number")
            })?;
        }
        Ok(())
    }

    fn validate_train(&self) -> Result<(), ConfigError> {
        let train = &self.train;
        require(train.micro_batch > 0, "train.micro_batch", || "is 0; it must be at least 1".into())?;
        require(train.accumulation > 0, "train.accumulation", || "is 0; it must be at least 1".into())?;
        require(train.epochs > 0, "train.epochs", || "is 0; it must be at least 1".into())?;
        require(train.learning_rate.is_finite() && train.learning_rate > 0.0, "train.learning_rate", || {
            format!("is {}; it must be a positive number", train.learning_rate)
        })?;
        require((0.0..=1.0).contains(&train.prompt_loss_weight), "train.prompt_loss_weight", || {
            format!(
                "is {}; it lies between 0 (answers only) and 1 (whole sequence)",
                train.prompt_loss_weight
            )
        })?;
        for (key, value) in
            [("train.weight_decay", train.weight_decay), ("train.max_grad_norm", train.max_grad_norm)]
        {
            require(value.is_finite() && value >= 0.0, key, || {
                format!("is {value}; it may not be negative")
            })?;
        }
        Ok(())
    }

    fn validate_federation(&self) -> Result<(), ConfigError> {
        let federation = &self.federation;
        require(federation.rounds > 0, "federation.rounds", || "is 0; it must be at least 1".into())?;
        require(
            federation.local_steps.is_none() || federation.local_epochs.is_none(),
            "federation.local_steps",
            || "excludes federation.local_epochs; a round is measured in steps or in epochs".into(),
        )?;
        require(
            federation.local_steps != Some(0) && federation.local_epochs != Some(0),
            "federation.local_steps",
            || "or local_epochs is 0; a round needs work".into(),
        )?;
        require(
            federation.sites_per_round.is_none() || federation.sample_fraction.is_none(),
            "federation.sites_per_round",
            || "excludes federation.sample_fraction; say how many or which share".into(),
        )?;
        require(federation.sites_per_round != Some(0), "federation.sites_per_round", || {
            "is 0; a round needs sites".into()
        })?;
        if let Some(fraction) = federation.sample_fraction {
            require(fraction > 0.0 && fraction <= 1.0, "federation.sample_fraction", || {
                format!("is {fraction}; it must be above 0 and at most 1")
            })?;
        }
        require(
            federation.deadline_s.is_finite() && federation.deadline_s > 0.0,
            "federation.deadline_s",
            || format!("is {}; it must be a positive number of seconds", federation.deadline_s),
        )?;
        require(federation.quorum != Some(0), "federation.quorum", || {
            "is 0; a model cannot be made of no update".into()
        })?;
        Ok(())
    }

    fn validate_eval(&self) -> Result<(), ConfigError> {
        let eval = &self.eval;
        require(!(eval.parity && eval.max_new_tokens.is_some()), "eval.max_new_tokens", || {
            format!("excludes eval.parity, which means {PARITY_NEW_TOKENS} new tokens")
        })?;
        require(eval.max_new_tokens != Some(0), "eval.max_new_tokens", || {
            "is 0; an answer needs tokens".into()
        })?;
        require(eval.questions_per_site != Some(0), "eval.questions_per_site", || {
            "is 0; nothing could be judged".into()
        })?;
        require(eval.batch > 0, "eval.batch", || "is 0; it must be at least 1".into())?;
        require(eval.resamples > 0, "eval.resamples", || "is 0; an interval needs resamples".into())?;
        require(
            eval.repetition_penalty.is_finite() && eval.repetition_penalty > 0.0,
            "eval.repetition_penalty",
            || format!("is {}; it must be a positive number, 1 is off", eval.repetition_penalty),
        )
    }

    /// Refuses what only shows once the number of sites is known.
    ///
    /// # Errors
    /// A quorum above the number of sites asked in a round.
    pub fn validate_for_sites(&self, sites: usize) -> Result<(), ConfigError> {
        let (asked, needed) = (self.federation.asked(sites), self.federation.needed(sites));
        require(needed <= asked, "federation.quorum", || {
            format!(
                "is {needed}, but only {asked} of {sites} sites are asked in a round; no round could commit"
            )
        })
    }
}

fn require(holds: bool, key: &'static str, reason: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Invalid { key, reason: reason() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_refused_with_the_reason() {
        for text in [
            "[secure_aggregation]\nthreshold = 3",
            "[federation]\nsecure_aggregation = true",
            "[federation.differential_privacy]\nepsilon = 8",
        ] {
            let error = Config::from_toml(text).unwrap().validate().unwrap_err().to_string();
            assert!(error.contains("does not exist yet"), "{error}");
        }
    }

    #[test]
    fn combinations_that_make_no_sense_are_refused_by_key() {
        let refused = |text: &str| Config::from_toml(text).unwrap().validate().unwrap_err().to_string();
        assert!(
            refused("[federation]\nlocal_steps = 1\nlocal_epochs = 1")
                .contains("excludes federation.local_epochs")
        );
        assert!(refused("[federation]\nsites_per_round = 1\nsample_fraction = 0.5").contains("excludes"));
        assert!(refused("[eval]\nparity = true\nmax_new_tokens = 30").contains("eval.parity"));
        assert!(refused("[data]\nsites = [\"a\", \"a\"]").contains("twice"));
        assert!(
            refused("[data]\nsites = [\"a\"]\npartition = { kind = \"iid\", sites = 2 }").contains("makes 2")
        );
        assert!(refused("[train]\nprompt_loss_weight = 2.0").contains("between 0"));
        let mut config = Config::default();
        config.federation.quorum = Some(6);
        assert!(config.validate_for_sites(5).unwrap_err().to_string().contains("only 5 of 5"));
    }
}
