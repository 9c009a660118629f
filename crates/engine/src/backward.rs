//! The backward pass: the forward's list of operations upside down. Frozen matrices pass gradients through and get
//! none of their own; only the adapter's factors do.

use consilium_core::lora::Target;

use crate::forward::{Kept, Pass, Workspace, fit};
use crate::kernels::attention::attention_backward;
use crate::kernels::gemm::{Mat, MatMut, gemm};
use crate::kernels::int8::Terms;
use crate::kernels::rmsnorm::{rmsnorm_backward, rmsnorm_forward};
use crate::kernels::rope::{RopeTable, rope_backward};
use crate::kernels::swiglu::{swiglu_backward, swiglu_forward};

/// Buffers of the backward pass.
#[derive(Default)]
pub(crate) struct Gradients {
    /// Of the residual stream, `(t, c)`
    pub x: Vec<f32>,
    /// Of a norm's output, `(t, c)`
    pub normed: Vec<f32>,
    /// `(t, w)`
    pub qkv: Vec<f32>,
    /// `(t, h d)`
    pub attended: Vec<f32>,
    /// `(t, f)`
    pub activated: Vec<f32>,
    /// Of `x A^T`, `(t, r)`
    pub low: Vec<f32>,
    /// What each sequence gives to the keys and values of a shared prefix
    pub prefix: Vec<f32>,
    /// The flat adapter's, summed over micro-batches
    pub params: Vec<f32>,
}

/// Carries the gradient of the stream after the last block, `work.grads.x (t, c)`, back through all blocks and adds
/// the adapter's gradient to `work.grads.params`. Uses up what the forward kept.
pub(crate) fn backward(pass: &Pass, rope: &RopeTable, work: &mut Workspace) {
    let config = pass.model.config();
    let (c, f, w, q_dim) = (config.hidden_size, config.intermediate_size, config.qkv_dim(), config.q_dim());
    let (heads, eps, threads) = (pass.heads(), config.rms_norm_eps, pass.threads);
    let carries = |targets: &[Target]| targets.iter().any(|target| pass.lora.targets.contains(target));
    let Workspace { kept, normed, activated, dropped, plan, grads, .. } = work;
    let t = plan.tokens();
    for (layer, block) in pass.model.blocks.iter().enumerate().rev() {
        let Kept { x, qkv, attended, lse, middle, gate_up, low } = &mut kept[layer];
        let (x, qkv) = (&x[..t * c], &qkv[..t * w]);
        let (middle, gate_up) = (&middle[..t * c], &mut gate_up[..t * 2 * f]);
        let dx = &mut grads.x[..t * c];
        let d_normed = fit(&mut grads.normed, t * c);

        let d_activated = fit(&mut grads.activated, t * f);
        block.down.backward(threads, d_activated, dx, Terms::One);
        if carries(&[Target::Down]) {
            let activated = fit(activated, t * f);
            swiglu_forward(threads, activated, gate_up, f);
            let through = Through { dy: Mat::new(dx, t, c), x: activated, low: &low[Target::Down as usize] };
            lora_backward(
                pass,
                layer,
                Target::Down,
                through,
                Some(d_activated),
                &mut grads.low,
                &mut grads.params,
                dropped,
            );
        }
        swiglu_backward(threads, d_activated, gate_up, f);
        block.gate_up.backward(threads, d_normed, gate_up, Terms::One);
        if carries(&[Target::Gate, Target::Up]) {
            let normed = fit(normed, t * c);
            rmsnorm_forward(threads, normed, middle, &block.mlp_norm, eps);
            for target in [Target::Gate, Target::Up] {
                let dy = Mat::strided(&gate_up[pass.model.rows_of(target).start..], t, f, 2 * f);
                let through = Through { dy, x: normed, low: &low[target as usize] };
                lora_backward(
                    pass,
                    layer,
                    target,
                    through,
                    Some(d_normed),
                    &mut grads.low,
                    &mut grads.params,
                    dropped,
                );
            }
        }
        rmsnorm_backward(threads, dx, d_normed, middle, &block.mlp_norm, eps);

        let d_attended = fit(&mut grads.attended, t * q_dim);
        block.o.backward(threads, d_attended, dx, Terms::One);
        if carries(&[Target::O]) {
            let attended = &attended[..t * q_dim];
            let through = Through { dy: Mat::new(dx, t, c), x: attended, low: &low[Target::O as usize] };
            lora_backward(
                pass,
                layer,
                Target::O,
                through,
                Some(d_attended),
                &mut grads.low,
                &mut grads.params,
                dropped,
            );
        }
        let d_qkv = fit(&mut grads.qkv, t * w);
        let (lse, slots) = (&lse[..heads.query * t], &mut grads.prefix);
        attention_backward(threads, d_qkv, d_attended, qkv, lse, &plan.sequences, heads, slots);
        rope_backward(threads, d_qkv, w, heads.query + heads.kv, &plan.positions, rope);
        // Below the first block nothing is trained, so its input needs no gradient.
        let first = layer == 0;
        if !first {
            block.qkv.backward(threads, d_normed, d_qkv, Terms::One);
        }
        if carries(&[Target::Q, Target::K, Target::V]) {
            let normed = fit(normed, t * c);
            rmsnorm_forward(threads, normed, x, &block.attention_norm, eps);
            for target in [Target::Q, Target::K, Target::V] {
                let rows = pass.model.rows_of(target);
                let dy = Mat::strided(&d_qkv[rows.start..], t, rows.len(), w);
                let through = Through { dy, x: normed, low: &low[target as usize] };
                let d_normed = (!first).then_some(&mut *d_normed);
                lora_backward(
                    pass,
                    layer,
                    target,
                    through,
                    d_normed,
                    &mut grads.low,
                    &mut grads.params,
                    dropped,
                );
            }
        }
        if !first {
            rmsnorm_backward(threads, dx, d_normed, x, &block.attention_norm, eps);
        }
    }
}

/// What reaches an adapter in the backward.
struct Through<'a> {
    /// Gradient of the module's output, `(t, outputs)`
    dy: Mat<'a>,
    /// The module's input, `(t, inputs)`
    x: &'a [f32],
    /// `dropout(x) A^T` of the forward, `(t, r)`
    low: &'a [f32],
}

/// dB += s dy^T (x A^T), dA += s (dy B)^T x, dx += s (dy B) A, with the forward's dropout on x. Does nothing where
/// the target carries no adapter.
#[allow(clippy::too_many_arguments)]
fn lora_backward(
    pass: &Pass,
    layer: usize,
    target: Target,
    Through { dy, x, low }: Through,
    dx: Option<&mut [f32]>,
    d_low: &mut Vec<f32>,
    d_params: &mut [f32],
    dropped: &mut Vec<f32>,
) {
    let Some(place) = pass.layout.place(layer, target) else { return };
    let (shape, r, s) = (pass.layout.shape(target), pass.lora.rank, pass.lora.scale());
    let (inputs, outputs, threads) = (shape.inputs, shape.outputs, pass.threads);
    let t = x.len() / inputs;
    let a = Mat::new(&pass.params[place.a.clone()], r, inputs);
    let b = Mat::new(&pass.params[place.b.clone()], outputs, r);

    let low = Mat::new(&low[..t * r], t, r);
    let d_b = fit(dropped, r * outputs);
    gemm(threads, MatMut::new(d_b, r, outputs), low.t(), dy, 1.0, false);
    add_transposed(&mut d_params[place.b.clone()], d_b, r, s);
    let d_low = fit(d_low, t * r);
    gemm(threads, MatMut::new(d_low, t, r), dy, b, s, false);
    let d_low = Mat::new(d_low, t, r);
    let d_a = MatMut::new(&mut d_params[place.a.clone()], r, inputs);
    let Some(key) = &pass.dropout else {
        gemm(threads, d_a, d_low.t(), Mat::new(x, t, inputs), 1.0, true);
        if let Some(dx) = dx {
            gemm(threads, MatMut::new(dx, t, inputs), d_low, a, 1.0, true);
        }
        return;
    };
    let scratch = fit(dropped, x.len());
    key.apply(threads, layer, target, x, scratch);
    gemm(threads, d_a, d_low.t(), Mat::new(scratch, t, inputs), 1.0, true);
    if let Some(dx) = dx {
        gemm(threads, MatMut::new(scratch, t, inputs), d_low, a, 1.0, false);
        key.accumulate(threads, layer, target, scratch, dx);
    }
}

/// `to (n, r) += s from (r, n)^T`.
fn add_transposed(to: &mut [f32], from: &[f32], r: usize, s: f32) {
    let n = to.len() / r;
    for (i, row) in to.chunks_exact_mut(r).enumerate() {
        for (j, value) in row.iter_mut().enumerate() {
            *value += s * from[j * n + i];
        }
    }
}
