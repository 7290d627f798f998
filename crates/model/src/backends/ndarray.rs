//! Burn's ndarray backend.
#![expect(deprecated, reason = "Burn prefers flex; this project offers both, and tests both")]

use std::borrow::Cow;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{NdArray, TensorMetadata};
use burn::tensor::{Shape, TensorData};
use burn_ndarray::NdArrayTensor;

use super::cpu::{CpuTensors, as_token};

impl CpuTensors for NdArray {
    fn numbers(tensor: &FloatTensor<Self>) -> Cow<'_, [f32]> {
        let NdArrayTensor::F32(storage) = tensor else {
            panic!("the LSTM's operations compute in float32, got {:?}", tensor.dtype());
        };
        let view = storage.view();
        match view.to_slice() {
            Some(slice) => Cow::Borrowed(slice),
            // Row by row: to step through any layout an element at a time takes ten times as long.
            None => {
                let mut numbers = Vec::with_capacity(view.len());
                for row in view.rows() {
                    match row.to_slice() {
                        Some(row) => numbers.extend_from_slice(row),
                        None => numbers.extend(row),
                    }
                }
                Cow::Owned(numbers)
            }
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

    fn is_unique(tensor: &FloatTensor<Self>) -> bool {
        matches!(tensor, NdArrayTensor::F32(storage) if storage.is_unique())
    }

    fn tokens(tensor: &IntTensor<Self>) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(TensorMetadata::shape(tensor).num_elements());
        match tensor {
            NdArrayTensor::I64(storage) => {
                for row in storage.view().rows() {
                    tokens.extend(row.iter().map(|&id| as_token(id)));
                }
            }
            NdArrayTensor::I32(storage) => {
                for row in storage.view().rows() {
                    tokens.extend(row.iter().map(|&id| as_token(id)));
                }
            }
            _ => panic!("tokens are 32- or 64-bit integers, got {:?}", tensor.dtype()),
        }
        tokens
    }

    fn tensor(numbers: Vec<f32>, shape: impl Into<Shape>) -> FloatTensor<Self> {
        NdArrayTensor::from_data(TensorData::new(numbers, shape))
    }

    fn shape<const D: usize>(tensor: &FloatTensor<Self>) -> [usize; D] {
        TensorMetadata::shape(tensor).dims()
    }
}
