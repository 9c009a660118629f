//! A training step of the size of those before it allocates nothing, in either precision, with dropout, shared prompts
//! and adapters everywhere.

mod common;

use consilium_core::engine::{Engine, Precision, TrainSettings};
use consilium_core::{Batch, LoraConfig, Target};
use consilium_engine::{CpuEngine, initial_adapter};

#[test]
fn a_step_in_the_steady_state_allocates_nothing() {
    for precision in [Precision::F32, Precision::Int8] {
        let model = common::random_model_as(1, precision);
        let lora = LoraConfig { dropout: 0.1, ..common::lora(Target::ALL) };
        // One thread, so that all work is the counting thread's.
        let mut engine = CpuEngine::new(model.clone(), &lora, 1).unwrap();
        engine.set_adapter(&initial_adapter(model.config(), &lora, 1)).unwrap();
        engine.begin(&TrainSettings::default());
        let mut batch = Batch::new();
        for row in common::random_rows(&[40, 17, 96], 300, 2) {
            let ids: Vec<u32> = [5, 6, 7, 8].into_iter().chain(row.ids).collect();
            batch.push(&ids, &vec![1.0; ids.len()]);
        }
        let batches = [batch.clone(), batch];
        let mut step = || {
            engine.step(&batches, 1e-3).unwrap();
        };
        let first = allocation_counter::measure(&mut step);
        assert!(first.count_total > 0, "the counter counts");
        let later = allocation_counter::measure(&mut step);
        assert_eq!(later.count_total, 0, "{precision:?}: {later:?}");
    }
}
