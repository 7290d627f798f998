//! Burn's ndarray backend.
#![expect(deprecated, reason = "Burn prefers flex; this project offers both, and tests both")]

use std::borrow::Cow;

use burn::backend::tensor::FloatTensor;
use burn::backend::{NdArray, TensorMetadata};
use burn::tensor::TensorData;
use burn_ndarray::NdArrayTensor;

use super::{CpuTensors, run_forward};
use crate::ops::LstmOps;

impl LstmOps for NdArray {
    fn lstm_sequence(
        products: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        run_forward::<Self>(&products, &weight, &h, &c).0
    }
}

impl CpuTensors for NdArray {
    fn numbers(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]> {
        let NdArrayTensor::F32(storage) = tensor else {
            panic!("the fused LSTM computes in float32, got {:?}", tensor.dtype());
        };
        let view = storage.view();
        match view.to_slice() {
            Some(slice) => Cow::Borrowed(slice),
            None => Cow::Owned(view.iter().copied().collect()),
        }
    }

    fn tensor<const D: usize>(numbers: Vec<f32>, shape: [usize; D]) -> FloatTensor<Self> {
        NdArrayTensor::from_data(TensorData::new(numbers, shape))
    }

    fn shape<const D: usize>(tensor: &FloatTensor<Self>) -> [usize; D] {
        tensor.shape().dims()
    }
}
