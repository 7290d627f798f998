//! AdamW's state by parameter path, in and out of Burn's optimizer.
//!
//! Burn keys its record by parameter id and, loading one, silently begins anew with whatever does not
//! fit. Here everything must be there and fit, or it is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{LearningRate, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use burn_pack::{Reader, Scalar, Writer};
use poquelin_model::CharLstm;

use super::adamw::{AdamW, AdamWState, MOMENTS, TIME};
use crate::weights::{self, Tensors, WeightsError};

const RANK: &str = "__rank";
/// Where the optimizer's module, the `LanguageModel`, has its network.
const ROOT: &str = "network.";

/// What AdamW has gathered of each parameter.
#[derive(Clone, Debug, Default)]
pub struct OptimizerState {
    /// The moments: `moment_1.` and `moment_2.` before the parameter's path.
    pub moments: Tensors,
    /// The steps that each parameter has taken.
    pub times: BTreeMap<String, u64>,
}

impl OptimizerState {
    /// The state of Burn's optimizer; empty before its first step.
    ///
    /// # Errors
    ///
    /// Where its record is not AdamW's.
    pub fn of(optimizer: &ModuleOptimizer) -> Result<Self, String> {
        let record = optimizer.into_bytes().map_err(|error| error.to_string())?;
        let reader = Reader::from_bytes(record).map_err(|error| error.to_string())?;
        let paths = reader.metadata().clone();
        let named = |key: &str| {
            let (id, field) = key.split_once('.').ok_or_else(|| format!("the record has {key}"))?;
            let path = paths.get(id).and_then(|path| path.strip_prefix(ROOT));
            let path = path.ok_or_else(|| format!("the record knows no parameter {id}"))?;
            Ok::<_, String>((path.to_owned(), field.to_owned()))
        };
        let mut state = Self::default();
        for (key, value) in reader.scalars() {
            let (path, field) = named(key)?;
            if field == TIME {
                let time = u64::try_from(*value).map_err(|error| format!("{key}: {error}"))?;
                state.times.insert(path, time);
            }
        }
        for tensor in reader.into_tensors().map_err(|error| error.to_string())? {
            let (key, dtype, shape, _, bytes) =
                tensor.into_parts().map_err(|error| error.to_string())?;
            let (path, field) = named(&key)?;
            if !MOMENTS.contains(&field.as_str()) {
                return Err(format!("the record has {key}"));
            }
            let data = TensorData::from_bytes(bytes, shape, dtype);
            state.moments.insert(format!("{field}.{path}"), data);
        }
        Ok(state)
    }

    /// Burn's optimizer in this state, for a network; and the state, read back from it.
    ///
    /// # Errors
    ///
    /// Where a parameter has no state, a state no parameter, or the two differ in shape or type.
    pub fn into_optimizer(
        mut self,
        adam_w: TappedAdamW,
        network: &CharLstm,
    ) -> Result<(ModuleOptimizer, Self), WeightsError> {
        let times = self.times.clone();
        let mut parameters = Parameters::default();
        network.visit(&mut parameters);
        let mut writer = Vec::new();
        let (mut scalars, mut paths) = (Vec::new(), Vec::new());
        for (path, id, shape) in parameters.found {
            for field in MOMENTS {
                let name = format!("{field}.{path}");
                let data = self.moments.remove(&name);
                let data = data.ok_or_else(|| WeightsError::Missing(name.clone()))?;
                weights::fits(&name, &shape, &data)?;
                let (bytes, shape, dtype) = data.into_parts();
                let key = format!("{id}.{field}");
                writer.push(burn_pack::Tensor::new(key, dtype, shape, Some(id), bytes));
            }
            let time = self.times.remove(&path);
            let time = time.ok_or_else(|| WeightsError::Missing(format!("the steps of {path}")))?;
            scalars.push((format!("{id}.{TIME}"), Scalar::from(time)));
            scalars.push((format!("{id}.{RANK}"), Scalar::from(shape.len())));
            paths.push((id.to_string(), format!("{ROOT}{path}")));
        }
        if let Some(name) = self.moments.into_keys().chain(self.times.into_keys()).next() {
            return Err(WeightsError::Unexpected(name));
        }
        let mut writer = Writer::new(writer);
        for (key, value) in scalars {
            writer = writer.with_scalar(&key, value);
        }
        for (id, path) in &paths {
            writer = writer.with_metadata(id, path);
        }
        let refused = |error: String| WeightsError::Optimizer(error);
        let record = writer.into_bytes().map_err(|error| refused(error.to_string()))?;
        let optimizer = ModuleOptimizer::from(adam_w)
            .from_bytes(record)
            .map_err(|error| refused(error.to_string()))?;
        // Burn leaves out the state that it does not understand, and says nothing.
        let taken = Self::of(&optimizer).map_err(refused)?;
        let complete = taken.moments.len() == MOMENTS.len() * times.len();
        match taken.times == times && complete {
            true => Ok((optimizer, taken)),
            false => Err(refused("a part of it was not taken".to_owned())),
        }
    }
}

/// AdamW, and where its state goes when a checkpoint asks for it: burn-train's learner keeps its
/// optimizer to itself.
#[derive(Clone, Debug)]
pub struct TappedAdamW {
    /// What computes.
    pub adam_w: AdamW,
    /// What listens.
    pub tap: Tap,
}

impl Optimizer for TappedAdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let (tensor, state) = self.adam_w.step(learning_rate, tensor, grad, state);
        if let (Some(captured), Some(state)) = (&mut *self.tap.slot(), &state) {
            captured.push(Captured::new(state.clone()));
        }
        (tensor, state)
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamW::to_device(state, device)
    }
}

/// The way out for an optimizer's state.
#[derive(Clone, Debug, Default)]
pub struct Tap {
    /// There while it is asked for: the parameters' states in the order of the module.
    slot: Arc<Mutex<Option<Vec<Captured>>>>,
}

impl Tap {
    /// Asks for the state behind the next step.
    pub fn ask(&self) {
        *self.slot() = Some(Vec::new());
    }

    /// The state of the step made since, if it was asked for.
    ///
    /// # Errors
    ///
    /// Where the step was not one over all parameters of `network`.
    pub fn take(&self, network: &CharLstm) -> Result<Option<CapturedState>, String> {
        let Some(captured) = self.slot().take() else { return Ok(None) };
        let mut parameters = Parameters::default();
        network.visit(&mut parameters);
        let paths: Vec<String> = parameters.found.into_iter().map(|(path, ..)| path).collect();
        if captured.len() != paths.len() {
            let (got, expected) = (captured.len(), paths.len());
            return Err(format!("the optimizer moved {got} parameters of {expected}"));
        }
        Ok(Some(CapturedState { captured, paths }))
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Vec<Captured>>> {
        // A list that a panic left half full is refused by its length.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A state on its device. To hold it copies nothing; the next step leaves it as it is.
#[derive(Clone, Debug)]
pub struct CapturedState {
    captured: Vec<Captured>,
    paths: Vec<String>,
}

impl CapturedState {
    /// Reads it.
    pub fn read(self) -> OptimizerState {
        let mut state = OptimizerState::default();
        for (path, Captured { time, moments }) in self.paths.into_iter().zip(self.captured) {
            for (name, data) in MOMENTS.into_iter().zip(moments()) {
                state.moments.insert(format!("{name}.{path}"), data);
            }
            state.times.insert(path, time);
        }
        state
    }
}

/// The state of a parameter.
#[derive(Clone)]
struct Captured {
    time: u64,
    moments: Arc<dyn Fn() -> [TensorData; 2] + Send + Sync>,
}

impl Captured {
    fn new<const D: usize>(state: AdamWState<D>) -> Self {
        Self { time: state.time(), moments: Arc::new(move || state.clone().into_data()) }
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured").field("time", &self.time).finish_non_exhaustive()
    }
}

/// The parameters of a module: path, id and shape.
#[derive(Default)]
struct Parameters {
    path: Vec<String>,
    found: Vec<(String, u64, Vec<usize>)>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.push((self.path.join("."), param.id.val(), param.dims().to_vec()));
    }
}
