//! What is exported computes what was trained: a merged model loads as a base and gives the same log-probabilities.

mod common;

use common::{model, model_dir};
use consilium_core::gguf::{self, Value};
use consilium_core::{Adapter, Batch, Engine, LoraConfig, Target, Tensor, peft};
use consilium_engine::{CpuEngine, Model, initial_adapter};
use consilium_experiment::export::{self, GgufType, ModelFiles};

fn lora() -> LoraConfig {
    LoraConfig { rank: 3, targets: Target::ALL.into(), ..LoraConfig::default() }
}

/// An adapter that changes every matrix.
fn adapter(model: &Model) -> Adapter {
    let fresh = initial_adapter(model.config(), &lora(), 5);
    let other = initial_adapter(model.config(), &LoraConfig { rank: 4, ..lora() }, 6);
    let noise: Vec<f32> = other.flat().filter(|v| *v != 0.0).collect();
    let fill = |tensor: &Tensor| {
        let zero = tensor.data.iter().all(|v| *v == 0.0);
        let data = if zero { noise[..tensor.data.len()].to_vec() } else { tensor.data.clone() };
        Tensor { data, ..tensor.clone() }
    };
    Adapter::new(fresh.tensors().iter().map(fill).collect()).unwrap()
}

fn log_probabilities(engine: &mut CpuEngine) -> Vec<f32> {
    let ids: Vec<u32> = (1..40).map(|i| i * 29 % 1000).collect();
    let mut batch = Batch::new();
    batch.push(&ids, &vec![1.0; ids.len()]);
    engine.score(&batch).unwrap()
}

#[test]
fn a_merged_model_loads_and_gives_the_same_log_probabilities() {
    let root = tempfile::tempdir().unwrap();
    let (base, _) = model();
    let adapter = adapter(&base);
    let mut engine = CpuEngine::new(base.clone(), &lora(), 1).unwrap();
    let untrained = log_probabilities(&mut engine);
    engine.set_adapter(&adapter).unwrap();
    let expected = log_probabilities(&mut engine);
    assert!(expected.iter().zip(&untrained).any(|(a, b)| (a - b).abs() > 0.1), "the adapter must matter");

    let out = root.path().join("deep/merged");
    let dir = model_dir();
    export::merged(&ModelFiles { model: &base, dir: &dir }, &adapter, &lora(), &out).unwrap();
    assert!(out.join("tokenizer.json").is_file());
    let merged = std::sync::Arc::new(Model::load(&out).unwrap());
    let found = log_probabilities(&mut CpuEngine::new(merged, &lora(), 1).unwrap());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-3, "{found} {expected}");
    }
}

#[test]
fn a_peft_directory_comes_back_exactly() {
    let root = tempfile::tempdir().unwrap();
    let (base, _) = model();
    let adapter = adapter(&base);
    export::peft(&adapter, &lora(), "some/base", &root.path().join("a")).unwrap();
    let bytes = std::fs::read(root.path().join("a").join(peft::WEIGHTS_FILE)).unwrap();
    assert_eq!(peft::decode_weights(&bytes).unwrap(), adapter);
}

#[test]
fn a_gguf_file_holds_the_merged_weights_and_the_vocabulary() {
    let root = tempfile::tempdir().unwrap();
    let (base, _) = model();
    let adapter = adapter(&base);
    let dir = model_dir();
    let merged = base.merged(&adapter, &lora()).unwrap();
    for (kind, tolerance) in [(GgufType::F16, 1e-3), (GgufType::Q8_0, 1e-2)] {
        let out = root.path().join("model.gguf");
        let files = ModelFiles { model: &base, dir: &dir };
        export::gguf(&files, &adapter, &lora(), kind, &out).unwrap();
        let bytes = std::fs::read(&out).unwrap();
        let file = gguf::read(&bytes).unwrap();
        assert_eq!(file.tensors.len(), merged.len());
        let find = |name: &str| file.tensors.iter().find(|t| t.name == name).unwrap();
        for (name, theirs) in [
            ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
            ("output_norm.weight", "model.norm.weight"),
        ] {
            let expected = merged.iter().find(|t| t.name == theirs).unwrap();
            assert_eq!(find(name).shape, expected.shape);
            let largest = expected.data.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (found, expected) in find(name).data.iter().zip(&expected.data) {
                assert!((found - expected).abs() <= tolerance * largest, "{name}: {found} {expected}");
            }
        }
        // Row 1 of a head in the file is row d/2 of it in Hugging Face's order.
        let q = merged.iter().find(|t| t.name == "model.layers.0.self_attn.q_proj.weight").unwrap();
        let (width, half) = (q.shape[1], base.config().head_dim / 2);
        let found = &find("blk.0.attn_q.weight").data[width..2 * width];
        let largest = q.data.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (found, expected) in found.iter().zip(&q.data[half * width..]) {
            assert!((found - expected).abs() <= tolerance * largest);
        }
        assert_eq!(file.get("tokenizer.ggml.pre"), Some(&Value::Text("smollm".into())));
        let Some(Value::Array(tokens)) = file.get("tokenizer.ggml.tokens") else { panic!("no tokens") };
        assert_eq!(tokens.len(), base.config().vocab_size);
    }
}

/// Writes what `golden/check_gguf.py` checks: `CONSILIUM_EXPORT_BASE=DIR CONSILIUM_EXPORT_DIR=OUT cargo test -p
/// consilium-experiment --test export -- --ignored`.
#[test]
#[ignore = "writes files for golden/check_gguf.py"]
fn write_exports_of_a_model() {
    let folder = |name| std::path::PathBuf::from(std::env::var_os(name).expect(name));
    let (dir, out) = (folder("CONSILIUM_EXPORT_BASE"), folder("CONSILIUM_EXPORT_DIR"));
    let base = Model::load(&dir).unwrap();
    let adapter = adapter(&base);
    let files = ModelFiles { model: &base, dir: &dir };
    export::peft(&adapter, &lora(), &dir.to_string_lossy(), &out.join("adapter")).unwrap();
    export::merged(&files, &adapter, &lora(), &out.join("merged")).unwrap();
    for (kind, name) in [(GgufType::F16, "f16.gguf"), (GgufType::Q8_0, "q8_0.gguf")] {
        export::gguf(&files, &adapter, &lora(), kind, &out.join(name)).unwrap();
    }
}
