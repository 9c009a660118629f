//! Decoding with a key-value cache: up to [`SLOTS`] prompts advance together, and a finished one's place is taken by
//! the next prompt at once.

use consilium_core::engine::{Decoding, Finish, Generation, Watcher};
use consilium_core::lora::Target;

use crate::forward::{Pass, embed_forward, fit, linear_forward, lora_forward, residual_forward};
use crate::kernels::attention::attend_rows;
use crate::kernels::rmsnorm::rmsnorm_forward;
use crate::kernels::rope::{RopeTable, rope_forward};
use crate::kernels::swiglu::swiglu_forward;
use crate::sampling::Sampler;

/// Prompts that advance together.
const SLOTS: usize = 32;

/// One prompt under way.
struct Slot {
    /// Its number among the prompts.
    prompt: usize,
    /// Keys and values side by side for each position, one list for each block: `(positions, 2 g d)`.
    cache: Vec<Vec<f32>>,
    /// Ids that have not gone through the model yet: the whole prompt at first, then the newest token.
    pending: Vec<u32>,
    /// New ids.
    ids: Vec<u32>,
    sampler: Sampler,
}

/// One token on its way through the model.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    /// Index into the active slots.
    pub slot: usize,
    /// Position in its sequence.
    pub position: u32,
}

/// Buffers of one pass.
#[derive(Default)]
struct Buffers {
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    branch: Vec<f32>,
    gate_up: Vec<f32>,
    activated: Vec<f32>,
    low: Vec<f32>,
    logits: Vec<f32>,
}

/// Continues all prompts; see [`consilium_core::engine::Engine::generate`].
pub(crate) fn generate(
    pass: &Pass,
    rope: &RopeTable,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    watch: Watcher<'_>,
) -> Vec<Generation> {
    let config = pass.model.config();
    let mut results: Vec<Option<Generation>> = prompts.iter().map(|_| None).collect();
    let mut active: Vec<Slot> = Vec::new();
    let mut waiting = prompts.iter().enumerate();
    let mut buffers = Buffers::default();
    if decoding.max_new_tokens == 0 {
        return prompts.iter().map(|_| Generation { ids: Vec::new(), finish: Finish::Length }).collect();
    }
    loop {
        for (prompt, ids) in waiting.by_ref().take(SLOTS - active.len()) {
            active.push(Slot {
                prompt,
                cache: vec![Vec::new(); config.layers],
                pending: ids.clone(),
                ids: Vec::new(),
                sampler: Sampler::new(prompt, ids, config.vocab_size, decoding),
            });
        }
        if active.is_empty() {
            break;
        }
        let logits = pass.threads.install(|| next_logits(pass, rope, &mut active, &mut buffers));
        for (slot, logits) in active.iter_mut().zip(logits.chunks_exact_mut(config.vocab_size)) {
            let id = slot.sampler.pick(logits, decoding);
            if let Some(finish) = advance(slot, id, prompts, decoding, config.max_positions, watch) {
                results[slot.prompt] = Some(Generation { ids: std::mem::take(&mut slot.ids), finish });
            }
        }
        active.retain(|slot| results[slot.prompt].is_none());
    }
    results.into_iter().map(|r| r.expect("every prompt ends before the loop does")).collect()
}

/// Takes the new token; says why the prompt is finished, if it is.
fn advance(
    slot: &mut Slot,
    id: u32,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    context: usize,
    watch: &mut dyn FnMut(usize, &[u32]) -> bool,
) -> Option<Finish> {
    if decoding.stop_ids.contains(&id) {
        return Some(Finish::Stop);
    }
    slot.ids.push(id);
    slot.pending = vec![id];
    if !watch(slot.prompt, &slot.ids) {
        Some(Finish::Stop)
    } else if slot.ids.len() >= decoding.max_new_tokens {
        Some(Finish::Length)
    } else if prompts[slot.prompt].len() + slot.ids.len() >= context {
        Some(Finish::Context)
    } else {
        None
    }
}

/// Runs every slot's pending tokens through the model; logits `(slots, v)` after the last of each.
fn next_logits<'b>(
    pass: &Pass,
    rope: &RopeTable,
    active: &mut [Slot],
    buffers: &'b mut Buffers,
) -> &'b mut [f32] {
    let config = pass.model.config();
    let (c, f, w) = (config.hidden_size, config.intermediate_size, config.qkv_dim());
    let (q_dim, kv_dim, heads, eps) = (config.q_dim(), config.kv_dim(), pass.heads(), config.rms_norm_eps);
    let threads = pass.threads;
    let mut rows = Vec::new();
    let mut ids = Vec::new();
    for (index, slot) in active.iter().enumerate() {
        let done = slot.cache[0].len() / (2 * kv_dim);
        ids.extend_from_slice(&slot.pending);
        rows.extend((0..slot.pending.len()).map(|i| Row { slot: index, position: (done + i) as u32 }));
    }
    let positions: Vec<u32> = rows.iter().map(|row| row.position).collect();
    let t = rows.len();
    let Buffers { x, normed, qkv, attended, branch, gate_up, activated, low, logits } = buffers;
    let (x, normed, branch) = (fit(x, t * c), fit(normed, t * c), fit(branch, t * c));
    let (qkv, attended) = (fit(qkv, t * w), fit(attended, t * q_dim));
    let (gate_up, activated) = (fit(gate_up, t * 2 * f), fit(activated, t * f));
    let mut unused = Vec::new();
    let mut adapt = |layer, target, y: (&mut [f32], usize), x: &[f32]| {
        lora_forward(pass, layer, target, y, x, t, low, &mut unused);
    };

    embed_forward(x, &ids, &pass.model.embedding, c);
    for (layer, block) in pass.model.blocks.iter().enumerate() {
        rmsnorm_forward(threads, normed, x, &block.attention_norm, eps);
        linear_forward(threads, qkv, normed, &block.qkv, &block.qkv_bias);
        for target in [Target::Q, Target::K, Target::V] {
            adapt(layer, target, (&mut qkv[pass.model.rows_of(target).start..], w), normed);
        }
        rope_forward(threads, qkv, w, heads.query + heads.kv, &positions, rope);
        for (row, qkv) in rows.iter().zip(qkv.chunks_exact(w)) {
            active[row.slot].cache[layer].extend_from_slice(&qkv[q_dim..]);
        }
        let caches: Vec<&[f32]> = active.iter().map(|slot| &slot.cache[layer][..]).collect();
        attend_rows(threads, attended, qkv, &rows, &caches, heads);
        linear_forward(threads, branch, attended, &block.o, &block.o_bias);
        adapt(layer, Target::O, (branch, c), attended);
        residual_forward(x, branch);

        rmsnorm_forward(threads, normed, x, &block.mlp_norm, eps);
        linear_forward(threads, gate_up, normed, &block.gate_up, &[]);
        for target in [Target::Gate, Target::Up] {
            adapt(layer, target, (&mut gate_up[pass.model.rows_of(target).start..], 2 * f), normed);
        }
        swiglu_forward(threads, activated, gate_up, f);
        linear_forward(threads, branch, activated, &block.down, &[]);
        adapt(layer, Target::Down, (branch, c), activated);
        residual_forward(x, branch);
    }

    // The head runs on the last row of each slot only.
    let n = active.len();
    let mut last = 0;
    for (index, slot) in active.iter().enumerate() {
        last += slot.pending.len();
        x.copy_within((last - 1) * c..last * c, index * c);
    }
    let (x, normed) = (&x[..n * c], &mut normed[..n * c]);
    rmsnorm_forward(threads, normed, x, &pass.model.norm, eps);
    let logits = fit(logits, n * config.vocab_size);
    linear_forward(threads, logits, normed, &pass.model.head, &[]);
    logits
}
