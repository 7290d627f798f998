//! Burn's ndarray backend.
#![expect(deprecated, reason = "Burn prefers flex; this project offers both, and tests both")]

use std::borrow::Cow;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{NdArray, TensorMetadata};
use burn::tensor::{Shape, TensorData};
use burn_ndarray::NdArrayTensor;

use super::cpu::CpuTensors;

impl CpuTensors for NdArray {
    fn numbers(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]> {
        let NdArrayTensor::F32(storage) = tensor else {
            panic!("the LSTM's operations compute in float32, got {:?}", tensor.dtype());
        };
        let view = storage.view();
        match view.to_slice() {
            Some(slice) => Cow::Borrowed(slice),
            None => Cow::Owned(view.iter().copied().collect()),
        }
    }

    fn into_numbers(tensor: FloatTensor<Self>) -> Vec<f32> {
        let count = TensorMetadata::shape(&tensor).num_elements();
        match tensor {
            NdArrayTensor::F32(storage) if storage.view().is_standard_layout() => {
                let (numbers, offset) = storage.into_owned().into_owned().into_raw_vec_and_offset();
                let start = offset.unwrap_or(0);
                match numbers.len() == count {
                    true => numbers,
                    false => numbers[start..][..count].to_vec(),
                }
            }
            tensor => Self::numbers(&tensor).into_owned(),
        }
    }

    fn tokens(tensor: &IntTensor<Self>) -> Vec<u32> {
        match tensor {
            NdArrayTensor::I64(storage) => storage.view().iter().map(|&id| id as u32).collect(),
            NdArrayTensor::I32(storage) => storage.view().iter().map(|&id| id as u32).collect(),
            _ => panic!("tokens are 32- or 64-bit integers, got {:?}", tensor.dtype()),
        }
    }

    fn tensor(numbers: Vec<f32>, shape: impl Into<Shape>) -> FloatTensor<Self> {
        NdArrayTensor::from_data(TensorData::new(numbers, shape))
    }

    fn shape<const D: usize>(tensor: &FloatTensor<Self>) -> [usize; D] {
        TensorMetadata::shape(tensor).dims()
    }
}
