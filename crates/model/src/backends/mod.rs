//! The backends' tensors as slices and back. What is computed stands in `kernels`.

mod autodiff;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "ndarray")]
mod ndarray;

use burn::backend::tensor::FloatTensor;

use crate::kernels::{Dimensions, Saved, backward, forward};
use crate::ops::LstmOps;

/// A backend whose tensors the CPU kernels can read.
pub(crate) trait CpuTensors: LstmOps {
    /// The numbers of a tensor in row-major order.
    fn numbers(tensor: &FloatTensor<Self>) -> std::borrow::Cow<'_, [f32]>;

    /// A tensor of these numbers.
    fn tensor<const D: usize>(numbers: Vec<f32>, shape: [usize; D]) -> FloatTensor<Self>;

    /// The shape of a tensor.
    fn shape<const D: usize>(tensor: &FloatTensor<Self>) -> [usize; D];
}

/// The forward pass on a backend's tensors.
fn run_forward<B: CpuTensors>(
    products: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    h: &FloatTensor<B>,
    c: &FloatTensor<B>,
) -> (FloatTensor<B>, Dimensions, Saved) {
    let [steps, batch, _] = B::shape(products);
    let [hidden, _] = B::shape(weight);
    let dimensions = Dimensions { steps, batch, hidden };
    let gates = B::numbers(products).into_owned();
    let (outputs, saved) =
        forward(dimensions, gates, &B::numbers(weight), &B::numbers(h), &B::numbers(c));
    (B::tensor(outputs, [steps + 1, batch, hidden]), dimensions, saved)
}

/// The backward pass on a backend's tensors: the gradients of products, weight, h and c.
fn run_backward<B: CpuTensors>(
    dimensions: Dimensions,
    saved: Saved,
    outputs: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    h: &FloatTensor<B>,
    c: &FloatTensor<B>,
    grad: &FloatTensor<B>,
) -> [FloatTensor<B>; 4] {
    let Dimensions { steps, batch, hidden } = dimensions;
    let gradients = backward(
        dimensions,
        saved,
        &B::numbers(outputs),
        &B::numbers(weight),
        &B::numbers(h),
        &B::numbers(c),
        &B::numbers(grad),
    );
    [
        B::tensor(gradients.products, [steps, batch, 4 * hidden]),
        B::tensor(gradients.weight, [hidden, 4 * hidden]),
        B::tensor(gradients.h, [batch, hidden]),
        B::tensor(gradients.c, [batch, hidden]),
    ]
}
