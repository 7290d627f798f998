//! Parameter ids that follow from the parameters' paths.

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{Bool, Int, Tensor};

use crate::Seed;

/// Gives every parameter of `module` an id that follows from its path, such as
/// `lstm.layers.0.weight_input`.
///
/// Burn draws ids at random, so two identical runs have different records. Call this once on the
/// **whole** model, before the optimizer sees it: on two halves of a model by themselves, it could
/// give both the same ids, and their gradients would be mixed up.
pub fn identify_parameters<M: Module>(module: M) -> M {
    module.map(&mut Identifier::default())
}

#[derive(Default)]
struct Identifier {
    path: Vec<String>,
}

impl Identifier {
    fn id(&self) -> ParamId {
        ParamId::from(Seed::new(0).derive(&self.path.join("."), 0).value())
    }
}

impl ModuleMapper for Identifier {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, mut param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.id = self.id();
        param
    }

    fn map_int<const D: usize>(
        &mut self,
        mut param: Param<Tensor<D, Int>>,
    ) -> Param<Tensor<D, Int>> {
        param.id = self.id();
        param
    }

    fn map_bool<const D: usize>(
        &mut self,
        mut param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        param.id = self.id();
        param
    }
}
