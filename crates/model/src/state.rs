//! The recurrent state of a stack of cells.

use burn::tensor::{DType, Device, Int, Tensor};

use crate::CellState;

/// Hidden and cell state of every layer, as if `h` and `c` were tensors `[L, B, H]`
/// (PyTorch's `(h_n, c_n)`).
#[derive(Clone, Debug)]
pub struct LstmState {
    layers: Vec<CellState>,
}

impl LstmState {
    /// All zeros, for any number of layers, of the device's own type of number.
    ///
    /// # Panics
    ///
    /// Where there is no layer.
    pub fn zeros(layers: usize, batch: usize, d_hidden: usize, device: &Device) -> Self {
        let layer = || CellState {
            h: Tensor::zeros([batch, d_hidden], device),
            c: Tensor::zeros([batch, d_hidden], device),
        };
        Self::from_layers((0..layers).map(|_| layer()).collect())
    }

    /// One state per layer, the lowest layer first.
    ///
    /// # Panics
    ///
    /// Where there is no layer, or the layers' batches or widths differ.
    pub fn from_layers(layers: Vec<CellState>) -> Self {
        let expected = layers.first().expect("a state has at least one layer").h.dims();
        for (index, layer) in layers.iter().enumerate() {
            let (h, c) = (layer.h.dims(), layer.c.dims());
            assert!(
                h == expected && c == expected,
                "layer {index} of the state: expected h and c of shape {expected:?}, \
                 got {h:?} and {c:?}"
            );
        }
        Self { layers }
    }

    /// From PyTorch's pair of tensors.
    ///
    /// # Shapes
    ///
    /// - h, c: `[L, B, H]`
    ///
    /// # Panics
    ///
    /// Where they are not of one shape, or there is no layer.
    pub fn from_tensors(h: Tensor<3>, c: Tensor<3>) -> Self {
        assert_eq!(h.dims(), c.dims(), "h and c of a state have one shape");
        let [layers, batch, d_hidden] = h.dims();
        let layer = |tensor: &Tensor<3>, index: usize| {
            tensor.clone().narrow(0, index, 1).reshape([batch, d_hidden])
        };
        Self::from_layers(
            (0..layers)
                .map(|index| CellState { h: layer(&h, index), c: layer(&c, index) })
                .collect(),
        )
    }

    /// The hidden states of all layers, `[L, B, H]`.
    pub fn h(&self) -> Tensor<3> {
        Tensor::stack(self.layers.iter().map(|layer| layer.h.clone()).collect(), 0)
    }

    /// The cell states of all layers, `[L, B, H]`.
    pub fn c(&self) -> Tensor<3> {
        Tensor::stack(self.layers.iter().map(|layer| layer.c.clone()).collect(), 0)
    }

    /// The state of each layer, the lowest first.
    pub fn layers(&self) -> &[CellState] {
        &self.layers
    }

    /// The state of each layer by value, the lowest first.
    pub fn into_layers(self) -> Vec<CellState> {
        self.layers
    }

    /// `[L, B, H]`.
    pub fn dims(&self) -> [usize; 3] {
        let [batch, d_hidden] = self.layers[0].h.dims();
        [self.layers.len(), batch, d_hidden]
    }

    /// The same numbers without their history: gradients do not flow through it. This is what
    /// truncates back-propagation through time between two chunks.
    pub fn detach(self) -> Self {
        self.map(Tensor::detach)
    }

    /// The same numbers in another type.
    pub fn cast(self, dtype: DType) -> Self {
        // Burn copies, or notes, a cast that changes nothing.
        self.map(|tensor| if tensor.dtype() == dtype { tensor } else { tensor.cast(dtype) })
    }

    /// The same state on another device.
    pub fn to_device(self, device: &Device) -> Self {
        self.map(|tensor| tensor.to_device(device))
    }

    /// The lanes named by `lanes`, in that order; a lane may be named more than once.
    ///
    /// # Shapes
    ///
    /// - lanes: `[N]`, each below B
    /// - result: `[L, N, H]`
    ///
    /// # Panics
    ///
    /// On a CPU, where there is no such lane.
    pub fn select(self, lanes: Tensor<1, Int>) -> Self {
        self.map(|tensor| tensor.select(0, lanes.clone()))
    }

    /// All lanes in another order, as a beam search or a sorted batch needs: lane `i` of the
    /// result is lane `order[i]` of this state.
    ///
    /// # Panics
    ///
    /// Where `order` is not a permutation of the lanes.
    pub fn reorder(self, order: &[usize]) -> Self {
        let [_, batch, _] = self.dims();
        let mut seen = vec![false; batch];
        let fresh = |lane: &usize| *lane < batch && !std::mem::replace(&mut seen[*lane], true);
        assert!(
            order.len() == batch && order.iter().all(fresh),
            "expected an order of the {batch} lanes, each named once, got {order:?}"
        );
        let indices: Vec<i64> = order.iter().map(|&lane| lane as i64).collect();
        let device = self.layers[0].h.device();
        self.select(Tensor::from_data(indices.as_slice(), &device))
    }

    fn map(self, mut change: impl FnMut(Tensor<2>) -> Tensor<2>) -> Self {
        let layers = self
            .layers
            .into_iter()
            .map(|layer| CellState { h: change(layer.h), c: change(layer.c) })
            .collect();
        Self { layers }
    }
}
