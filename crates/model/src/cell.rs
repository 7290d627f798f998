//! One LSTM cell: its weights and one time step.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};

use crate::ops::assert_together;

/// Hidden and cell state of one layer, both `[B, H]`.
#[derive(Clone, Debug)]
pub struct CellState {
    /// The hidden state, which is also the layer's output at the step that made it.
    pub h: Tensor<2>,
    /// The cell state.
    pub c: Tensor<2>,
}

/// One layer of an LSTM, usable by itself one step at a time (PyTorch's `nn.LSTMCell`).
///
/// Hochreiter and Schmidhuber 1997, <https://doi.org/10.1162/neco.1997.9.8.1735>, with the forget
/// gate of Gers et al. 2000, <https://doi.org/10.1162/089976600300015015>:
///
/// ```text
/// i, f, g, o = x Wi + bi + h Wr + br          four blocks of width H
/// c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g)
/// h' = σ(o) ⊙ tanh(c')
/// ```
///
/// Made by [`LstmConfig::init_cell`](crate::LstmConfig::init_cell).
#[derive(Module, Debug)]
pub struct LstmCell {
    /// Wi, `[D, 4H]`; the transpose of PyTorch's `weight_ih`.
    pub weight_input: Param<Tensor<2>>,
    /// Wr, `[H, 4H]`; the transpose of PyTorch's `weight_hh`.
    pub weight_recurrent: Param<Tensor<2>>,
    /// bi, `[4H]`; PyTorch's `bias_ih`.
    pub bias_input: Option<Param<Tensor<1>>>,
    /// br, `[4H]`; PyTorch's `bias_hh`.
    pub bias_recurrent: Option<Param<Tensor<1>>>,
}

impl LstmCell {
    /// A cell with copies of the weights of a layer of PyTorch's `nn.LSTM`, or of its `nn.LSTMCell`.
    ///
    /// # Shapes
    ///
    /// - weight_ih: `[4H, D]`
    /// - weight_hh: `[4H, H]`
    /// - biases: bias_ih and bias_hh, `[4H]`
    ///
    /// # Panics
    ///
    /// Where a shape is not the one expected.
    pub fn from_pytorch(
        weight_ih: Tensor<2>,
        weight_hh: Tensor<2>,
        biases: Option<[Tensor<1>; 2]>,
    ) -> Self {
        fn laid<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
            let device = tensor.device();
            // In the order in which it is read: a transpose is only a view.
            Param::from_data(tensor.into_data(), &device)
        }
        let [bias_input, bias_recurrent] = match biases {
            Some(biases) => biases.map(|bias| Some(laid(bias))),
            None => [None, None],
        };
        let cell = Self {
            weight_input: laid(weight_ih.transpose()),
            weight_recurrent: laid(weight_hh.transpose()),
            bias_input,
            bias_recurrent,
        };
        cell.check_weights();
        cell
    }

    /// One time step.
    ///
    /// # Shapes
    ///
    /// - input: `[B, D]`
    /// - state: h and c `[B, H]`
    /// - result: h and c `[B, H]`; its h is the output of the step
    ///
    /// # Panics
    ///
    /// Where the widths of input and state are not the cell's, or they are not of the weights' type or on their device.
    pub fn forward(&self, input: Tensor<2>, state: CellState) -> CellState {
        let [batch, d_input] = input.dims();
        self.check(batch, d_input, &state);
        assert_together(&self.weight_input.val(), &input);
        let product = input.matmul(self.weight_input.val());
        let product = match self.bias() {
            Some(bias) => product + bias.unsqueeze(),
            None => product,
        };
        step(product, self.weight_recurrent.val(), state)
    }

    /// D.
    pub fn d_input(&self) -> usize {
        self.weight_input.dims()[0]
    }

    /// H.
    pub fn d_hidden(&self) -> usize {
        self.weight_recurrent.dims()[0]
    }

    /// The sum of the two biases, `[4H]`.
    pub(crate) fn bias(&self) -> Option<Tensor<1>> {
        match (&self.bias_input, &self.bias_recurrent) {
            (Some(input), Some(recurrent)) => Some(input.val() + recurrent.val()),
            (Some(bias), None) | (None, Some(bias)) => Some(bias.val()),
            (None, None) => None,
        }
    }

    /// Refuses weights, an input or a state of the wrong shape, and numbers of another type, or in another place,
    /// than the weights'.
    pub(crate) fn check(&self, batch: usize, d_input: usize, state: &CellState) {
        self.check_weights();
        let (d_expected, d_hidden) = (self.d_input(), self.d_hidden());
        assert_eq!(d_input, d_expected, "the input's width: expected {d_expected}, got {d_input}");
        let expected = [batch, d_hidden];
        let (h, c) = (state.h.dims(), state.c.dims());
        assert!(
            h == expected && c == expected,
            "the state: expected h and c of shape {expected:?}, got {h:?} and {c:?}"
        );
        let weight = self.weight_recurrent.val();
        assert_together(&weight, &state.h);
        assert_together(&weight, &state.c);
    }

    /// Refuses weights that do not fit each other.
    fn check_weights(&self) {
        let width = 4 * self.d_hidden();
        let names = ["weight_input", "weight_recurrent"];
        for (name, weight) in names.into_iter().zip([&self.weight_input, &self.weight_recurrent]) {
            let [rows, got] = weight.dims();
            assert_eq!(got, width, "{name}: expected [{rows}, {width}], got [{rows}, {got}]");
        }
        let weight = self.weight_recurrent.val();
        assert_together(&weight, &self.weight_input.val());
        for bias in [&self.bias_input, &self.bias_recurrent].into_iter().flatten() {
            assert_eq!(bias.dims(), [width], "the width 4H of a bias");
            assert_together(&weight, &bias.val());
        }
    }
}

/// The recurrent half of one time step, from the input's share of the gates `[B, 4H]`.
pub(crate) fn step(product: Tensor<2>, weight_recurrent: Tensor<2>, state: CellState) -> CellState {
    let gates = product + state.h.matmul(weight_recurrent);
    let [i, f, g, o] =
        gates.chunk(4, 1).try_into().expect("the gates are four blocks of equal width");
    let c = activation::sigmoid(f) * state.c + activation::sigmoid(i) * activation::tanh(g);
    let h = activation::sigmoid(o) * activation::tanh(c.clone());
    CellState { h, c }
}
