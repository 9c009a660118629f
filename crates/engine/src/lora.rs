//! Where each LoRA factor lies: an adapter is one flat list of f32, so the optimiser makes one pass over it.

use std::ops::Range;

use consilium_core::adapter::{Adapter, AdapterError, Schema, Tensor};
use consilium_core::lora::{LoraConfig, Target};
use consilium_core::peft::tensor_name;
use consilium_core::rng::SeededRng;

use crate::config::LlamaConfig;

/// Extents of a linear layer, `(outputs, inputs)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub outputs: usize,
    pub inputs: usize,
}

/// Where the factors of one target in one layer lie in the flat adapter.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// A, `(r, inputs)`
    pub a: Range<usize>,
    /// B, `(outputs, r)`
    pub b: Range<usize>,
}

/// The flat adapter's map.
#[derive(Clone, Debug)]
pub(crate) struct LoraLayout {
    /// One for each (layer, target) slot; `None` where the target carries no adapter.
    places: Vec<Option<Place>>,
    shapes: [Shape; 7],
    schema: Schema,
    total: usize,
}

fn slot(layer: usize, target: Target) -> usize {
    layer * Target::ALL.len() + target as usize
}

impl LoraLayout {
    /// The layout of `lora` on a model of `config`: by layer, then target in forward order, A before B.
    pub fn new(config: &LlamaConfig, lora: &LoraConfig) -> Self {
        let (c, f) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.q_dim(), config.kv_dim());
        let shapes = Target::ALL.map(|target| match target {
            Target::Q => Shape { outputs: q, inputs: c },
            Target::K | Target::V => Shape { outputs: kv, inputs: c },
            Target::O => Shape { outputs: c, inputs: q },
            Target::Gate | Target::Up => Shape { outputs: f, inputs: c },
            Target::Down => Shape { outputs: c, inputs: f },
        });
        let mut layout = Self {
            places: vec![None; config.layers * Target::ALL.len()],
            shapes,
            schema: Schema::new(),
            total: 0,
        };
        for layer in 0..config.layers {
            for &target in &lora.targets {
                let shape = layout.shape(target);
                let a = layout.reserve(tensor_name(layer, target, 'A'), vec![lora.rank, shape.inputs]);
                let b = layout.reserve(tensor_name(layer, target, 'B'), vec![shape.outputs, lora.rank]);
                layout.places[slot(layer, target)] = Some(Place { a, b });
            }
        }
        layout
    }

    fn reserve(&mut self, name: String, shape: Vec<usize>) -> Range<usize> {
        let start = self.total;
        self.total += shape.iter().product::<usize>();
        self.schema.push((name, shape));
        start..self.total
    }

    /// Where the factors of `target` in `layer` lie, if it carries any.
    pub fn place(&self, layer: usize, target: Target) -> Option<&Place> {
        self.places[slot(layer, target)].as_ref()
    }

    /// Extents of the frozen matrix of `target`.
    pub fn shape(&self, target: Target) -> Shape {
        self.shapes[target as usize]
    }

    /// Number of trainable values.
    pub fn total(&self) -> usize {
        self.total
    }

    /// All values of `adapter` in this layout's order.
    ///
    /// # Errors
    /// When names or shapes are not exactly this layout's.
    pub fn flatten(&self, adapter: &Adapter) -> Result<Vec<f32>, AdapterError> {
        Ok(adapter.clone().conform(&self.schema)?.flat().collect())
    }

    /// Named tensors from the flat list.
    pub fn tensors(&self, flat: &[f32]) -> Vec<Tensor> {
        let mut rest = flat;
        self.schema
            .iter()
            .map(|(name, shape)| {
                let (data, after) = rest.split_at(shape.iter().product());
                rest = after;
                Tensor { name: name.clone(), shape: shape.clone(), data: data.to_vec() }
            })
            .collect()
    }
}

/// A fresh adapter: A uniform in `±1/sqrt(inputs)` (PyTorch's `kaiming_uniform_` with `a = sqrt 5`, as PEFT
/// initialises it), B zero. Each tensor has its own random stream, so rank or targets of one do not move another.
pub fn initial_adapter(config: &LlamaConfig, lora: &LoraConfig, seed: u64) -> Adapter {
    let layout = LoraLayout::new(config, lora);
    let mut tensors = layout.tensors(&vec![0.0; layout.total]);
    for tensor in tensors.iter_mut().filter(|t| t.name.ends_with("lora_A")) {
        let bound = 1.0 / (tensor.shape[1] as f32).sqrt();
        let mut rng = SeededRng::derive(seed, 0, "", &format!("init {}", tensor.name));
        tensor.data.iter_mut().for_each(|v| *v = (2.0 * rng.uniform() - 1.0) * bound);
    }
    Adapter::new(tensors).expect("a bounded draw is finite and the layout's shapes fit")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LlamaConfig {
        LlamaConfig::parse(
            r#"{"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 1e4,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu"}"#,
        )
        .unwrap()
    }

    #[test]
    fn flatten_and_tensors_are_inverse() {
        let lora = LoraConfig { targets: Target::ALL.into(), rank: 3, ..LoraConfig::default() };
        let layout = LoraLayout::new(&config(), &lora);
        let flat: Vec<f32> = (0..layout.total()).map(|i| i as f32).collect();
        let adapter = Adapter::new(layout.tensors(&flat)).unwrap();
        assert_eq!(layout.flatten(&adapter).unwrap(), flat);
        let place = layout.place(1, Target::Down).unwrap();
        assert_eq!(place.b.end, layout.total(), "down of the last layer is last");
        assert_eq!(adapter.get("layers.1.mlp.down_proj.lora_A").unwrap().shape, [3, 48]);
    }

    #[test]
    fn the_initial_adapter_is_bounded_in_a_and_zero_in_b() {
        let adapter = initial_adapter(&config(), &LoraConfig::default(), 1);
        let bound = 1.0 / 32f32.sqrt();
        for tensor in adapter.tensors() {
            let largest = tensor.data.iter().fold(0f32, |m, v| m.max(v.abs()));
            if tensor.name.ends_with("lora_A") {
                assert!(largest <= bound && largest > 0.9 * bound, "{}: {largest}", tensor.name);
            } else {
                assert_eq!(largest, 0.0, "{}", tensor.name);
            }
        }
        assert_ne!(adapter, initial_adapter(&config(), &LoraConfig::default(), 2));
    }
}
