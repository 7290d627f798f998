//! Burn's flex backend.

use std::borrow::Cow;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::TensorData;
use burn_flex::FlexTensor;

use super::{CpuTensors, run_forward};
use crate::ops::LstmOps;

impl LstmOps for Flex {
    fn lstm_sequence(
        products: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        h: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        run_forward::<Self>(&products, &weight, &h, &c).0
    }
}

impl CpuTensors for Flex {
    fn numbers(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]> {
        match tensor.as_slice() {
            Some(slice) => Cow::Borrowed(slice),
            None => {
                let copy = tensor.to_contiguous();
                let numbers: &[f32] = copy.as_slice().expect("the copy is contiguous float32");
                Cow::Owned(numbers.to_vec())
            }
        }
    }

    fn tensor<const D: usize>(numbers: Vec<f32>, shape: [usize; D]) -> FloatTensor<Self> {
        FlexTensor::from_data(TensorData::new(numbers, shape))
    }

    fn shape<const D: usize>(tensor: &FloatTensor<Self>) -> [usize; D] {
        tensor.shape().dims()
    }
}
