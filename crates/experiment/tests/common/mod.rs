//! The bundled tiny model with a handful of made-up rows: small enough to run the whole comparison in a test.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use consilium_core::{Event, Sink, StopFlag};
use consilium_data::{Example, Template, TextTokenizer};
use consilium_engine::Model;
use consilium_experiment::{Config, Inputs, SiteData};

/// How questions are put.
pub const TEMPLATE: &str = "Q: {question}\nA: {answer}";

/// The repository's bundled model.
pub fn model_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model")
}

/// The bundled model, loaded.
pub fn model() -> (Arc<Model>, TextTokenizer) {
    let model = Model::load(&model_dir()).unwrap();
    let tokenizer = TextTokenizer::from_dir(&model_dir(), model.config().eos_ids[0]).unwrap();
    (Arc::new(model), tokenizer)
}

/// `count` questions that only `site` can answer.
pub fn rows(site: &str, part: &str, count: usize) -> Vec<Example> {
    let row = |i: usize| Example {
        id: format!("{site}-{part}-{i}"),
        question: format!("What does {site} say about {part} {i}?"),
        answer: format!("{site} says {}.", i * 3),
        category: site.into(),
    };
    (0..count).map(row).collect()
}

/// Two sites of different size.
pub fn inputs() -> Inputs {
    let (model, tokenizer) = model();
    let site = |name: &str, train: usize| SiteData {
        name: name.into(),
        train: rows(name, "wards", train),
        validation: Vec::new(),
        test: rows(name, "beds", 6),
    };
    Inputs {
        model,
        tokenizer,
        template: Template::parse(TEMPLATE).unwrap(),
        shards: vec![site("north", 8), site("south side", 6)],
        data: Default::default(),
    }
}

/// Two rounds over them, with dropout.
pub fn config() -> Config {
    let mut config = Config { threads: 2, ..Config::default() };
    config.model.id = "consilium-demo".into();
    config.data.template = Some(TEMPLATE.into());
    config.lora.rank = 2;
    config.train.micro_batch = 2;
    config.train.accumulation = 2;
    config.train.epochs = 3;
    config.train.learning_rate = 5e-3;
    config.federation.rounds = 2;
    config.federation.local_epochs = Some(2);
    config.eval.max_new_tokens = Some(6);
    config.eval.resamples = 50;
    config.eval.batch = 4;
    config
}

/// Raises a flag when a given number of events of a kind have come.
pub struct StopWhen {
    pub stop: StopFlag,
    matches: fn(&Event) -> bool,
    left: Mutex<usize>,
}

impl StopWhen {
    pub fn new(count: usize, matches: fn(&Event) -> bool) -> Self {
        Self { stop: StopFlag::new(), matches, left: Mutex::new(count) }
    }
}

impl Sink for StopWhen {
    fn record(&self, event: &Event) {
        if (self.matches)(event) {
            let mut left = self.left.lock().unwrap();
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.stop.raise();
            }
        }
    }
}
