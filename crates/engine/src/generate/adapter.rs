//! The adapter as decoding wants it: both factors lie the way products read them, and targets that share an input
//! share one product with their A. With one token at a time, packing the factors on each call would cost more than
//! multiplying.

use consilium_core::lora::Target;

use crate::forward::{Pass, fit};
use crate::kernels::gemm::{Mat, MatMut, gemm};
use crate::threads::Threads;

/// Targets that share an input, named by the first of them.
const JOINT: [&[Target]; 4] =
    [&[Target::Q, Target::K, Target::V], &[Target::O], &[Target::Gate, Target::Up], &[Target::Down]];
/// Rows of A^T have a whole number of vectors.
const LANES: usize = 16;

/// The adapter of all layers.
pub(super) struct ReadyAdapter {
    /// `JOINT.len()` for each layer
    joints: Vec<Joint>,
    rank: usize,
}

/// Factors of the targets that share an input.
#[derive(Default)]
struct Joint {
    /// `(inputs, width)`: A^T of one target beside the other, then zeros
    a: Vec<f32>,
    width: usize,
    parts: Vec<Part>,
}

/// B of one target.
struct Part {
    /// Where its output begins in a row.
    column: usize,
    outputs: usize,
    /// `s B^T (r, outputs)`
    b: Vec<f32>,
}

impl ReadyAdapter {
    pub fn new(pass: &Pass) -> Self {
        let layers = 0..pass.model.config().layers;
        let joints = layers.flat_map(|layer| JOINT.map(|targets| Joint::new(pass, layer, targets))).collect();
        Self { joints, rank: pass.lora.rank }
    }

    /// `y += s (x A^T) B^T` for the targets that share an input with `first`, in rows of `stride` values of `y`.
    pub fn add(
        &self,
        threads: &Threads,
        layer: usize,
        first: Target,
        (y, stride): (&mut [f32], usize),
        x: &[f32],
        low: &mut Vec<f32>,
    ) {
        let number = JOINT.iter().position(|targets| targets[0] == first).expect("the first of some targets");
        let Joint { a, width, parts } = &self.joints[layer * JOINT.len() + number];
        if parts.is_empty() {
            return;
        }
        let inputs = a.len() / width;
        let t = x.len() / inputs;
        let low = fit(low, t * width);
        gemm(
            threads,
            MatMut::new(low, t, *width),
            Mat::new(x, t, inputs),
            Mat::new(a, inputs, *width),
            1.0,
            false,
        );
        for (i, Part { column, outputs, b }) in parts.iter().enumerate() {
            let out = MatMut::strided(&mut y[*column..], t, *outputs, stride);
            let low = Mat::strided(&low[i * self.rank..], t, self.rank, *width);
            gemm(threads, out, low, Mat::new(b, self.rank, *outputs), 1.0, true);
        }
    }
}

impl Joint {
    fn new(pass: &Pass, layer: usize, targets: &[Target]) -> Self {
        let (layout, r, scale) = (pass.layout, pass.lora.rank, pass.lora.scale());
        let places: Vec<_> =
            targets.iter().filter_map(|&target| Some((target, layout.place(layer, target)?))).collect();
        let width = (places.len() * r).next_multiple_of(LANES);
        let inputs = layout.shape(targets[0]).inputs;
        let mut joint = Joint { a: vec![0.0; inputs * width], width, parts: Vec::new() };
        for (number, (target, place)) in places.into_iter().enumerate() {
            for (row, a) in pass.params[place.a.clone()].chunks_exact(inputs).enumerate() {
                let to = joint.a[number * r + row..].iter_mut().step_by(width);
                to.zip(a).for_each(|(to, a)| *to = *a);
            }
            let outputs = layout.shape(target).outputs;
            let mut b = vec![0.0; r * outputs];
            for (output, row) in pass.params[place.b.clone()].chunks_exact(r).enumerate() {
                let to = b[output..].iter_mut().step_by(outputs);
                to.zip(row).for_each(|(to, v)| *to = scale * v);
            }
            let column = pass.model.rows_of(target).start;
            joint.parts.push(Part { column, outputs, b });
        }
        joint
    }
}
