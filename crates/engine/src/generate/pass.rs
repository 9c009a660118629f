//! Pending tokens of many sequences through the model, in one pass.

use consilium_core::lora::Target;

use super::adapter::ReadyAdapter;
use crate::forward::{Pass, embed_forward, fit, linear_forward};
use crate::kernels::decode::{CacheShape, Page, Segment, Span, attend_spans};
use crate::kernels::residual::residual_forward;
use crate::kernels::rmsnorm::rmsnorm_forward;
use crate::kernels::rope::{RopeTable, rope_forward};
use crate::kernels::swiglu::swiglu_forward;

/// A sequence after what it shares with others.
pub(super) struct Sequence {
    cache: Segment,
    /// Ids that have not gone through the model yet: the whole prompt at first, then the newest token.
    pending: Vec<u32>,
    /// How many of them the next pass takes.
    taken: usize,
}

impl Sequence {
    pub fn new(ids: &[u32]) -> Self {
        Self { cache: Segment::default(), pending: ids.to_vec(), taken: 0 }
    }

    /// Ids that have not gone through the model yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Lets the next pass take up to `limit` of them; says how many it will.
    pub fn take(&mut self, limit: usize) -> usize {
        self.taken = self.pending.len().min(limit);
        self.taken
    }

    pub fn push(&mut self, id: u32) {
        self.pending.push(id);
    }
}

/// What passes need, and their buffers.
pub(super) struct Decoder<'a> {
    pass: &'a Pass<'a>,
    rope: &'a RopeTable,
    adapter: ReadyAdapter,
    shape: CacheShape,
    /// Pages of sequences that are finished.
    free: Vec<Page>,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    ids: Vec<u32>,
    positions: Vec<u32>,
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

impl<'a> Decoder<'a> {
    pub fn new(pass: &'a Pass<'a>, rope: &'a RopeTable) -> Self {
        Self {
            pass,
            rope,
            adapter: ReadyAdapter::new(pass),
            shape: CacheShape { layers: pass.model.config().layers, heads: pass.heads() },
            free: Vec::new(),
            buffers: Buffers::default(),
        }
    }

    /// Keys and values of `ids` at the start of a sequence.
    pub fn prefill(&mut self, ids: &[u32]) -> Segment {
        let nothing = Segment::default();
        let mut sequence = Sequence::new(ids);
        while sequence.pending() > 0 {
            sequence.take(super::PASS_TOKENS);
            self.advance(&nothing, &mut [&mut sequence], false);
        }
        sequence.cache
    }

    /// Keeps the pages of a finished sequence for others.
    pub fn recycle(&mut self, sequence: Sequence) {
        sequence.cache.release(&mut self.free);
    }

    /// Runs the taken tokens of `sequences`, all of which come after `shared`, through the model. With `head`,
    /// returns logits `(n, v)` after the last token of the n sequences with nothing pending any more.
    pub fn advance(&mut self, shared: &Segment, sequences: &mut [&mut Sequence], head: bool) -> &mut [f32] {
        let Self { pass, rope, adapter, shape, free, buffers } = self;
        let (model, threads, config) = (pass.model, pass.threads, pass.model.config());
        let (c, f, w) = (config.hidden_size, config.intermediate_size, config.qkv_dim());
        let (q_dim, heads, eps) = (config.q_dim(), shape.heads, config.rms_norm_eps);
        let Buffers { ids, positions, x, normed, qkv, attended, branch, gate_up, activated, low, logits } =
            buffers;
        ids.clear();
        positions.clear();
        for sequence in sequences.iter_mut() {
            let done = sequence.cache.len;
            ids.extend_from_slice(&sequence.pending[..sequence.taken]);
            positions.extend((0..sequence.taken).map(|i| (shared.len + done + i) as u32));
            sequence.cache.reserve(*shape, done + sequence.taken, free);
        }
        let t = ids.len();
        let (x, normed, branch) = (fit(x, t * c), fit(normed, t * c), fit(branch, t * c));
        let (qkv, attended) = (fit(qkv, t * w), fit(attended, t * q_dim));
        let (gate_up, activated) = (fit(gate_up, t * 2 * f), fit(activated, t * f));

        embed_forward(x, ids, &model.embedding, c);
        for (layer, block) in model.blocks.iter().enumerate() {
            rmsnorm_forward(threads, normed, x, &block.attention_norm, eps);
            linear_forward(threads, qkv, normed, &block.qkv, &block.qkv_bias);
            adapter.add(threads, layer, Target::Q, (qkv, w), normed, low);
            rope_forward(threads, qkv, w, heads.query + heads.kv, positions, rope);
            store(sequences, *shape, layer, qkv, q_dim);
            attend_spans(threads, attended, qkv, &spans(shared, sequences), *shape, layer);
            linear_forward(threads, branch, attended, &block.o, &block.o_bias);
            adapter.add(threads, layer, Target::O, (branch, c), attended, low);
            residual_forward(threads, x, branch, None);

            rmsnorm_forward(threads, normed, x, &block.mlp_norm, eps);
            linear_forward(threads, gate_up, normed, &block.gate_up, &[]);
            adapter.add(threads, layer, Target::Gate, (gate_up, 2 * f), normed, low);
            swiglu_forward(threads, activated, gate_up, f);
            linear_forward(threads, branch, activated, &block.down, &[]);
            adapter.add(threads, layer, Target::Down, (branch, c), activated, low);
            residual_forward(threads, x, branch, None);
        }

        // The head runs on the last rows only.
        let (mut rows, mut n) = (0, 0);
        for sequence in sequences.iter_mut() {
            rows += sequence.taken;
            sequence.cache.len += sequence.taken;
            sequence.pending.drain(..sequence.taken);
            if sequence.pending.is_empty() {
                x.copy_within((rows - 1) * c..rows * c, n * c);
                n += 1;
            }
        }
        if !head {
            return &mut [];
        }
        let (x, normed) = (&x[..n * c], &mut normed[..n * c]);
        rmsnorm_forward(threads, normed, x, &model.norm, eps);
        let logits = fit(logits, n * config.vocab_size);
        linear_forward(threads, logits, normed, &model.head, &[]);
        logits
    }
}

/// Writes the keys and values in `qkv (t, w)` into the caches of their sequences.
fn store(sequences: &mut [&mut Sequence], shape: CacheShape, layer: usize, qkv: &[f32], q_dim: usize) {
    let mut rows = qkv.chunks_exact(shape.heads.width());
    for sequence in sequences {
        for place in sequence.cache.len..sequence.cache.len + sequence.taken {
            let row = rows.next().expect("one row for each taken token");
            sequence.cache.store(shape, layer, place, &row[q_dim..]);
        }
    }
}

/// The rows of each sequence that has any.
fn spans<'s>(shared: &'s Segment, sequences: &'s [&mut Sequence]) -> Vec<Span<'s>> {
    let mut first = 0;
    let span = |sequence: &'s &mut Sequence| {
        first += sequence.taken;
        let rows = sequence.taken;
        (rows > 0).then_some(Span { first: first - rows, rows, shared, own: &sequence.cache })
    };
    sequences.iter().filter_map(span).collect()
}
