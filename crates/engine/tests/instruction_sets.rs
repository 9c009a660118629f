//! The whole engine on every instruction set that this processor has: training and generation end alike. One test in
//! one process, since the choice is the process's.

mod common;

use common::{lora, random_adapter, random_model_as, random_rows};
use consilium_core::engine::{Decoding, Engine, Precision, TrainSettings};
use consilium_core::{Adapter, Batch, LoraConfig, Target};
use consilium_engine::{CpuEngine, Isa};

/// Two steps, and what the trained model then says.
fn run(precision: Precision) -> (Adapter, Vec<Vec<u32>>) {
    let model = random_model_as(3, precision);
    let lora = LoraConfig { dropout: 0.1, ..lora(Target::ALL) };
    let mut engine = CpuEngine::new(model.clone(), &lora, 2).unwrap();
    engine.set_adapter(&random_adapter(&model, &lora, 4)).unwrap();
    engine.begin(&TrainSettings::default());
    for seed in 0..2 {
        let mut batch = Batch::new();
        for row in random_rows(&[70, 31], 300, seed) {
            batch.push(&row.ids, &vec![1.0; row.ids.len()]);
        }
        engine.step(&[batch], 1e-3).unwrap();
    }
    let prompts: Vec<Vec<u32>> = random_rows(&[9, 20, 33], 300, 7).into_iter().map(|row| row.ids).collect();
    let decoding = Decoding { max_new_tokens: 12, ..Decoding::default() };
    let texts = engine.generate(&prompts, &decoding, &mut |_, _| true).unwrap();
    (engine.adapter(), texts.into_iter().map(|text| text.ids).collect())
}

#[test]
fn every_instruction_set_trains_and_generates_alike() {
    for precision in [Precision::F32, Precision::Int8] {
        let results: Vec<_> = Isa::available()
            .map(|isa| {
                assert_eq!(Isa::force(isa.name()), Ok(isa));
                (isa, run(precision))
            })
            .collect();
        let (_, (expected, texts)) = results.last().unwrap();
        for (isa, (adapter, ids)) in &results {
            if *isa == Isa::Portable {
                // Unfused sums: the last bits differ, which 8-bit rounding can magnify where a value lies between two.
                let tolerance = if precision == Precision::F32 { 1e-4 } else { 5e-2 };
                common::assert_close(adapter, expected, tolerance, isa.name());
            } else {
                assert_eq!(adapter.tensors(), expected.tensors(), "{} {precision:?}", isa.name());
                assert_eq!(ids, texts, "{} {precision:?}", isa.name());
            }
        }
    }
}
