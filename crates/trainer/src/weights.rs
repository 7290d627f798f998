//! Parameters and other tensors as safetensors, by path.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, View};
use thiserror::Error;

/// How many bytes of a tensor are written at once.
const PIECE: usize = 1 << 18;

/// Tensors by name, in order.
pub type Tensors = BTreeMap<String, TensorData>;

/// Tensors that do not fit a module.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WeightsError {
    /// A parameter without a tensor.
    #[error("the tensor {0} is missing")]
    Missing(String),
    /// A tensor of another shape or type.
    #[error("the tensor {name}: expected {expected}, got {got}")]
    Mismatch {
        /// Its name.
        name: String,
        /// The parameter's type and shape.
        expected: String,
        /// The tensor's.
        got: String,
    },
    /// A tensor without a parameter.
    #[error("the tensor {0} belongs to no parameter of the model")]
    Unexpected(String),
    /// A state of the optimizer that Burn does not take.
    #[error("the optimizer's state: {0}")]
    Optimizer(String),
    /// Not safetensors.
    #[error("not a safetensors file: {0}")]
    Format(String),
}

/// The parameters of a module by path, such as `lstm.layers.0.weight_input`.
pub fn parameters<M: Module>(module: &M) -> Tensors {
    let mut reader = Reader::default();
    module.visit(&mut reader);
    reader.tensors
}

/// The numbers of a tensor that others hold too.
///
/// Burn's CPU backends copy such a tensor element by element. An operation that changes nothing makes
/// one of its own of it, many elements at a time, and that is given away as it is.
pub fn read<const D: usize>(tensor: Tensor<D>) -> TensorData {
    tensor.mul_scalar(1.0).into_data()
}

/// Gives the parameters of a module the values in `tensors`.
///
/// # Errors
///
/// Where a parameter has no tensor, a tensor no parameter, or the two differ in shape or type.
pub fn load<M: Module>(module: M, tensors: Tensors) -> Result<M, WeightsError> {
    let mut writer = Writer { path: Vec::new(), tensors, error: None };
    let module = module.map(&mut writer);
    match (writer.error, writer.tensors.into_keys().next()) {
        (Some(error), _) => Err(error),
        (None, Some(name)) => Err(WeightsError::Unexpected(name)),
        (None, None) => Ok(module),
    }
}

/// Finds out whether a tensor can be the value of a parameter of this shape.
///
/// # Errors
///
/// Where it has another shape or type.
pub fn fits(name: &str, shape: &[usize], data: &TensorData) -> Result<(), WeightsError> {
    let describe = |dtype: DType, shape: &[usize]| format!("{dtype:?} {shape:?}");
    let expected = describe(DType::F32, shape);
    let got = describe(data.dtype(), data.shape());
    if got == expected {
        Ok(())
    } else {
        Err(WeightsError::Mismatch { name: name.to_owned(), expected, got })
    }
}

/// Writes float32 tensors and notes as a safetensors file, the tensors in the order of their names.
/// Behind them there is to be one more, of bytes, called `last`: it is described, and left to the
/// caller to write.
///
/// # Errors
///
/// Where `output` refuses.
pub fn write_safetensors(
    output: &mut impl Write,
    tensors: &Tensors,
    notes: HashMap<String, String>,
    (last, length): (&str, usize),
) -> io::Result<()> {
    let last = (last, Described { dtype: Dtype::U8, shape: &[length], bytes: length });
    let described = tensors.iter().map(|(name, data)| (name.as_str(), Described::new(data)));
    let described = described.chain([last]);
    let head = safetensors::serialize(described, Some(notes))
        .expect("float32 and byte tensors whose lengths follow from their shapes serialize");
    output.write_all(&head)?;
    for data in tensors.values() {
        // Piece by piece, so that whoever looks at them on the way finds them in the cache.
        little_endian(data).chunks(PIECE).try_for_each(|piece| output.write_all(piece))?;
    }
    Ok(())
}

/// The tensors and notes in the bytes of a safetensors file.
///
/// # Errors
///
/// Where the bytes are none, or hold tensors of types we do not write.
pub fn from_safetensors(bytes: &[u8]) -> Result<(Tensors, HashMap<String, String>), WeightsError> {
    let format = |error: SafeTensorError| WeightsError::Format(error.to_string());
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(format)?;
    let notes = metadata.metadata().clone().unwrap_or_default();
    let mut tensors = Tensors::new();
    for (name, view) in SafeTensors::deserialize(bytes).map_err(format)?.tensors() {
        let shape = view.shape().to_vec();
        let data = match view.dtype() {
            Dtype::F32 => {
                let number = |bytes: &[u8]| {
                    f32::from_le_bytes(bytes.try_into().expect("the chunks are of four bytes"))
                };
                let values: Vec<f32> = view.data().chunks_exact(4).map(number).collect();
                TensorData::new(values, shape)
            }
            Dtype::U8 => TensorData::new(view.data().to_vec(), shape),
            other => {
                let got = format!("{other:?}");
                return Err(WeightsError::Mismatch { name, expected: "F32 or U8".into(), got });
            }
        };
        tensors.insert(name, data);
    }
    Ok((tensors, notes))
}

/// A tensor as the head of a safetensors file describes it; its bytes come behind.
struct Described<'a> {
    dtype: Dtype,
    shape: &'a [usize],
    bytes: usize,
}

impl<'a> Described<'a> {
    fn new(data: &'a TensorData) -> Self {
        assert_eq!(data.dtype(), DType::F32, "the type of a tensor that is stored");
        Self { dtype: Dtype::F32, shape: data.shape(), bytes: data.as_bytes().len() }
    }
}

impl View for Described<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }

    fn data_len(&self) -> usize {
        self.bytes
    }
}

fn little_endian(data: &TensorData) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return Cow::Borrowed(data.as_bytes());
    }
    let words = data.as_bytes().chunks_exact(4);
    Cow::Owned(words.flat_map(|word| word.iter().rev().copied()).collect())
}

#[derive(Default)]
struct Reader {
    path: Vec<String>,
    tensors: Tensors,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.tensors.insert(self.path.join("."), read(param.val()));
    }
}

struct Writer {
    path: Vec<String>,
    tensors: Tensors,
    error: Option<WeightsError>,
}

impl ModuleMapper for Writer {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let Some(data) = self.tensors.remove(&name) else {
            self.error.get_or_insert(WeightsError::Missing(name));
            return param;
        };
        if let Err(error) = fits(&name, &param.dims(), &data) {
            self.error.get_or_insert(error);
            return param;
        }
        param.map(|tensor| {
            let loaded = Tensor::from_data(data, &tensor.device());
            if tensor.is_require_grad() { loaded.require_grad() } else { loaded }
        })
    }
}
