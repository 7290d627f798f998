//! Burn's flex backend.

use std::borrow::Cow;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData};
use burn_flex::FlexTensor;

use super::cpu::{CpuTensors, as_token};

impl CpuTensors for Flex {
    fn numbers(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]> {
        match tensor.as_slice() {
            Some(slice) => Cow::Borrowed(slice),
            None => Cow::Owned(Self::into_numbers(tensor.clone())),
        }
    }

    fn into_numbers(tensor: FloatTensor<Self>) -> Vec<f32> {
        let dtype = tensor.dtype();
        let numbers = tensor.into_data().try_into_vec();
        numbers
            .unwrap_or_else(|_| panic!("the LSTM's operations compute in float32, got {dtype:?}"))
    }

    fn is_unique(tensor: &FloatTensor<Self>) -> bool {
        tensor.is_unique()
    }

    fn tokens(tensor: &IntTensor<Self>) -> Vec<u32> {
        let contiguous = tensor.to_contiguous();
        match contiguous.dtype() {
            DType::I64 => as_tokens(contiguous.as_slice::<i64>()),
            DType::I32 => as_tokens(contiguous.as_slice::<i32>()),
            dtype => panic!("tokens are 32- or 64-bit integers, got {dtype:?}"),
        }
    }

    fn tensor(numbers: Vec<f32>, shape: impl Into<Shape>) -> FloatTensor<Self> {
        FlexTensor::from_data(TensorData::new(numbers, shape))
    }

    fn shape<const D: usize>(tensor: &FloatTensor<Self>) -> [usize; D] {
        TensorMetadata::shape(tensor).dims()
    }
}

fn as_tokens<I: Copy + TryInto<u32>>(ids: Option<&[I]>) -> Vec<u32> {
    let ids = ids.expect("the copy is contiguous");
    ids.iter().map(|&id| as_token(id)).collect()
}
