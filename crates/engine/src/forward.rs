//! The forward pass, and what it keeps for the backward.
//!
//! Kept per block: its input, queries/keys/values after rotation, the attention's output and log-sum-exp, the
//! stream between attention and MLP, gate and up, and each adapter's `A x`. Norms and SwiGLU are cheap to redo.

use consilium_core::lora::{LoraConfig, Target};

use crate::kernels::attention::{Heads, attention_forward};
use crate::kernels::dropout::DropoutKey;
use crate::kernels::gemm::{Mat, MatMut, add_bias, gemm};
use crate::kernels::packed::Frozen;
use crate::kernels::residual::residual_forward;
use crate::kernels::rmsnorm::rmsnorm_forward;
use crate::kernels::rope::{RopeTable, rope_forward};
use crate::kernels::swiglu::swiglu_forward;
use crate::linear::Linear;
use crate::lora::LoraLayout;
use crate::model::Model;
use crate::plan::Plan;
use crate::threads::Threads;

/// What every operation of a pass looks at and none changes.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub model: &'a Model,
    pub layout: &'a LoraLayout,
    pub lora: &'a LoraConfig,
    /// The flat adapter.
    pub params: &'a [f32],
    /// `None` in evaluation.
    pub dropout: Option<DropoutKey>,
    pub threads: &'a Threads,
}

impl Pass<'_> {
    /// Heads and their sizes.
    pub fn heads(&self) -> Heads {
        let config = self.model.config();
        Heads { query: config.heads, kv: config.kv_heads, size: config.head_dim }
    }
}

/// What the backward of one block needs.
#[derive(Default)]
pub(crate) struct Kept {
    /// The block's input, `(t, c)`
    pub x: Vec<f32>,
    /// `(t, w)`, rotated
    pub qkv: Vec<f32>,
    /// `(t, h d)`; empty where o carries no adapter, for then nothing looks at it again
    pub attended: Vec<f32>,
    /// `(h, t)`
    pub lse: Vec<f32>,
    /// The stream after attention, `(t, c)`
    pub middle: Vec<f32>,
    /// `(t, 2 f)`
    pub gate_up: Vec<f32>,
    /// `x A^T` of each target, `(t, r)`
    pub low: [Vec<f32>; 7],
}

/// All buffers of forward and backward. They only ever grow, so steps of the same size allocate nothing.
#[derive(Default)]
pub(crate) struct Workspace {
    pub kept: Vec<Kept>,
    /// The residual stream, `(t, c)`; after the pass, the last block's output
    pub x: Vec<f32>,
    /// A norm's output, `(t, c)`
    pub normed: Vec<f32>,
    /// A branch's output before it joins the stream, `(t, c)`
    pub branch: Vec<f32>,
    /// The attention's output where it need not be kept, `(t, h d)`
    pub attended: Vec<f32>,
    /// `(t, f)`
    pub activated: Vec<f32>,
    /// A dropped-out input, or its gradient
    pub dropped: Vec<f32>,
    /// What the pass runs through
    pub plan: Plan,
    pub grads: crate::backward::Gradients,
}

/// The first `len` elements of a buffer that grows when it must. Old contents may remain.
pub(crate) fn fit(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        // Room to grow: a row of a few tokens more must not move every buffer and leave a hole of the old size.
        if buffer.capacity() < len {
            buffer.reserve_exact(len + len / 2 - buffer.len());
        }
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Runs the tokens of `work.plan` through all blocks; the stream after the last one is left in `work.x`. With `keep`,
/// everything that the backward needs stays in `work.kept`; without it, one block's buffers serve all.
pub(crate) fn forward(pass: &Pass, rope: &RopeTable, work: &mut Workspace, keep: bool) {
    let config = pass.model.config();
    let (t, c, f, w) = (work.plan.tokens(), config.hidden_size, config.intermediate_size, config.qkv_dim());
    let (heads, q_dim, eps, threads) = (pass.heads(), config.q_dim(), config.rms_norm_eps, pass.threads);
    work.kept.resize_with(if keep { config.layers } else { 1 }, Kept::default);

    let x = fit(&mut work.x, t * c);
    embed_forward(x, &work.plan.ids, &pass.model.embedding, c);
    fit(&mut work.kept[0].x, t * c).copy_from_slice(x);
    for (layer, block) in pass.model.blocks.iter().enumerate() {
        let (kept, next) = match work.kept.get_mut(layer..) {
            Some([kept, next, ..]) => (kept, Some(next)),
            Some([kept]) => (kept, None),
            _ => (&mut work.kept[0], None),
        };
        let (x, dropped) = (&mut work.x[..t * c], &mut work.dropped);
        let normed = fit(&mut work.normed, t * c);
        let branch = fit(&mut work.branch, t * c);
        rmsnorm_forward(threads, normed, x, &block.attention_norm, eps);
        let qkv = fit(&mut kept.qkv, t * w);
        linear_forward(threads, qkv, normed, &block.qkv, &block.qkv_bias);
        for target in [Target::Q, Target::K, Target::V] {
            let out = (&mut qkv[pass.model.rows_of(target).start..], w);
            lora_forward(pass, layer, target, out, normed, t, &mut kept.low[target as usize], dropped);
        }
        rope_forward(threads, qkv, w, heads.query + heads.kv, &work.plan.positions, rope);
        let keep_attended = pass.lora.targets.contains(&Target::O);
        let attended = fit(if keep_attended { &mut kept.attended } else { &mut work.attended }, t * q_dim);
        attention_forward(
            threads,
            attended,
            fit(&mut kept.lse, heads.query * t),
            qkv,
            &work.plan.sequences,
            heads,
        );
        linear_forward(threads, branch, attended, &block.o, &block.o_bias);
        lora_forward(
            pass,
            layer,
            Target::O,
            (branch, c),
            attended,
            t,
            &mut kept.low[Target::O as usize],
            dropped,
        );
        residual_forward(threads, x, branch, Some(fit(&mut kept.middle, t * c)));

        rmsnorm_forward(threads, normed, x, &block.mlp_norm, eps);
        let gate_up = fit(&mut kept.gate_up, t * 2 * f);
        linear_forward(threads, gate_up, normed, &block.gate_up, &[]);
        for target in [Target::Gate, Target::Up] {
            let out = (&mut gate_up[pass.model.rows_of(target).start..], 2 * f);
            lora_forward(pass, layer, target, out, normed, t, &mut kept.low[target as usize], dropped);
        }
        let activated = fit(&mut work.activated, t * f);
        swiglu_forward(threads, activated, gate_up, f);
        linear_forward(threads, branch, activated, &block.down, &[]);
        lora_forward(
            pass,
            layer,
            Target::Down,
            (branch, c),
            activated,
            t,
            &mut kept.low[Target::Down as usize],
            dropped,
        );
        residual_forward(threads, x, branch, next.map(|next| fit(&mut next.x, t * c)));
    }
}

/// `x (t, c)` = the embedding's row of each id.
pub(crate) fn embed_forward(x: &mut [f32], ids: &[u32], embedding: &Frozen, c: usize) {
    for (row, &id) in x.chunks_exact_mut(c).zip(ids) {
        embedding.read(id as usize * c..(id as usize + 1) * c, row);
    }
}

/// `y (t, n) = x (t, k) W^T + bias`.
pub(crate) fn linear_forward(threads: &Threads, y: &mut [f32], x: &[f32], weight: &Linear, bias: &[f32]) {
    weight.forward(threads, y, x, false);
    add_bias(y, bias);
}

/// `y += s (dropout(x) A^T) B^T` on the first columns of `out`, a slice with its row stride. Leaves
/// `dropout(x) A^T (t, r)` in `low`. Does nothing where the target carries no adapter.
#[allow(clippy::too_many_arguments)]
pub(crate) fn lora_forward(
    pass: &Pass,
    layer: usize,
    target: Target,
    (y, stride): (&mut [f32], usize),
    x: &[f32],
    t: usize,
    low: &mut Vec<f32>,
    dropped: &mut Vec<f32>,
) {
    let Some(place) = pass.layout.place(layer, target) else { return };
    let (shape, r) = (pass.layout.shape(target), pass.lora.rank);
    let (a, b) = (&pass.params[place.a.clone()], &pass.params[place.b.clone()]);
    let x = match &pass.dropout {
        Some(key) => {
            let out = fit(dropped, x.len());
            key.apply(pass.threads, layer, target, x, out);
            &*out
        }
        None => x,
    };
    let low = fit(low, t * r);
    let (a, b) = (Mat::new(a, r, shape.inputs), Mat::new(b, shape.outputs, r));
    gemm(pass.threads, MatMut::new(low, t, r), Mat::new(x, t, shape.inputs), a.t(), 1.0, false);
    let out = MatMut::strided(y, t, shape.outputs, stride);
    gemm(pass.threads, out, Mat::new(low, t, r), b.t(), pass.lora.scale(), true);
}
