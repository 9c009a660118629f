//! One training alone: checkpoint and resume, an adapter to start from, and refusals.

mod common;

use std::path::Path;

use common::{StopWhen, config, model, rows};
use consilium_core::metric::NullSink;
use consilium_core::{Adapter, Event, StopFlag, peft};
use consilium_data::Template;
use consilium_experiment::{ExperimentError, TrainInputs, Trained, train};

fn inputs(init_adapter: Option<Adapter>) -> TrainInputs {
    let (model, tokenizer) = model();
    TrainInputs {
        model,
        tokenizer,
        template: Template::workshop(),
        name: "north".into(),
        rows: rows("north", "wards", 7),
        init_adapter,
    }
}

fn whole(out: &Path, init: Option<Adapter>) -> Trained {
    train(&config(), &inputs(init), out, &NullSink, &StopFlag::new()).unwrap()
}

#[test]
fn stopped_and_resumed_gives_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let expected = whole(&root.path().join("whole"), None);
    assert_eq!(expected.steps, 6);
    let out = root.path().join("broken");
    let sink = StopWhen::new(3, |event| matches!(event, Event::Step { .. }));
    let stopped = train(&config(), &inputs(None), &out, &sink, &sink.stop);
    assert!(matches!(stopped, Err(ExperimentError::Stopped { .. })));
    let resumed = whole(&out, None);
    assert_eq!(resumed.adapter.sha256(), expected.adapter.sha256());
    let file = |trained: &Trained| std::fs::read(trained.adapter_dir.join(peft::WEIGHTS_FILE)).unwrap();
    assert!(file(&resumed) == file(&expected));
    assert_eq!(whole(&out, None).adapter.sha256(), expected.adapter.sha256(), "a finished training is read");
}

#[test]
fn an_adapter_to_start_from_is_used_and_one_that_does_not_fit_is_named() {
    let root = tempfile::tempdir().unwrap();
    let first = whole(&root.path().join("first"), None);
    let second = whole(&root.path().join("second"), Some(first.adapter.clone()));
    assert_ne!(second.adapter.sha256(), first.adapter.sha256());
    let again = train(&config(), &inputs(None), &root.path().join("second"), &NullSink, &StopFlag::new());
    assert!(matches!(again, Err(ExperimentError::OtherInputs { what: "adapter", .. })));
    let mut other = config();
    other.lora.rank = 3;
    let misfit =
        train(&other, &inputs(Some(first.adapter)), &root.path().join("third"), &NullSink, &StopFlag::new());
    let error = misfit.unwrap_err().to_string();
    assert!(error.contains("lora_A"), "{error}");
}
