//! Finding the attached parameters, and the gradients that backward left for them, in the model given to a call.
//!
//! A parameter is known by its hook, which says whose it is, wherever it lies: in the attached model, in one
//! that contains it, or in a copy. Ids change when a record is loaded, and paths when a model becomes a part of
//! another. A parameter without a hook, because it has another reparameterization, is known by its path,
//! relative to those with hooks.

use super::hook::HOOK;
use super::parameters::{Parameters, Path};
use super::use_tracker;
use crate::autodiff::Leaf;
use burn::backend::autodiff::NodeId;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Gradients, Tensor};

/// Gradients left by backward: Burn's container, or a module's gathered gradients.
pub(super) trait GradientSource {
    /// Takes the gradient of a parameter, if one is there.
    fn take<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Option<Tensor<D>>;
}

impl GradientSource for Gradients {
    fn take<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Option<Tensor<D>> {
        param.base().grad_remove(self)
    }
}

impl GradientSource for GradientsParams {
    fn take<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Option<Tensor<D>> {
        self.remove(param.id)
    }
}

/// The source of a rank that has no gradients.
pub(super) struct NoGradients;

impl GradientSource for NoGradients {
    fn take<const D: usize>(&mut self, _param: &Param<Tensor<D>>) -> Option<Tensor<D>> {
        None
    }
}

/// One float tensor of a model.
struct Visited {
    path: String,
    /// The key and the parameter that its hook names.
    hook: Option<(u64, usize)>,
    leaf: Option<NodeId>,
    device: Device,
    gradient: Option<Tensor<1>>,
}

impl Visited {
    /// Returns its parameter in the tracker `key`, as its hook says.
    fn parameter(&self, key: u64) -> Option<usize> {
        let (hooked_by, parameter) = self.hook?;
        (hooked_by == key).then_some(parameter)
    }
}

/// The attached parameters in a model.
pub(super) struct Collected {
    /// For each float tensor of the model, in the order of traversal, its parameter.
    pub(super) places: Vec<Option<usize>>,
    /// For each parameter, the gradients that were left, flattened.
    pub(super) gradients: Vec<Vec<Tensor<1>>>,
    /// For each parameter, its leaves: those of its places that are trained.
    pub(super) leaves: Vec<Vec<NodeId>>,
    /// True for each parameter that is in several places, and trained in one.
    pub(super) trained_beside: Vec<bool>,
}

/// Finds the parameters of the tracker `key` in a model, and takes their gradients. The error says what
/// about the model is wrong.
pub(super) fn collect<M: Module>(
    parameters: &Parameters,
    key: u64,
    model: &M,
    left: &mut impl GradientSource,
) -> Result<Collected, String> {
    let visited = visit(model, left);
    let base = Base::of(parameters, &visited, key);
    let parameter = |visited: &Visited| {
        let of_path = || {
            let parameter = base.index(parameters, &visited.path)?;
            let known = visited.hook.is_none() && !parameters.entries[parameter].hooked;
            known.then_some(parameter)
        };
        visited.parameter(key).or_else(of_path)
    };
    let places: Vec<Option<usize>> = visited.iter().map(parameter).collect();
    check_complete(parameters, &base, &places, &visited)?;
    Collected::new(parameters, visited, places)
}

impl Collected {
    /// Sorts the visited tensors by parameter; `places` has the parameter of each tensor.
    fn new(
        parameters: &Parameters,
        visited: Vec<Visited>,
        places: Vec<Option<usize>>,
    ) -> Result<Self, String> {
        let count = parameters.entries.len();
        let mut gradients: Vec<Vec<Tensor<1>>> = (0..count).map(|_| Vec::new()).collect();
        let mut leaves = vec![Vec::new(); count];
        let mut times = vec![0; count];
        let mut givers: Vec<Option<String>> = vec![None; count];
        for (visited, &place) in visited.into_iter().zip(&places) {
            let Some(parameter) = place else {
                check_foreign(&visited)?;
                continue;
            };
            check_place(parameters, parameter, &visited)?;
            times[parameter] += 1;
            if visited.gradient.is_some() {
                let earlier = givers[parameter].replace(visited.path.clone());
                check_giver(earlier, &visited.path)?;
            }
            leaves[parameter].extend(visited.leaf);
            gradients[parameter].extend(visited.gradient);
        }
        let beside = times.iter().zip(&leaves);
        let trained_beside = beside.map(|(times, leaves)| *times > 1 && !leaves.is_empty());
        Ok(Self {
            trained_beside: trained_beside.collect(),
            places,
            gradients,
            leaves,
        })
    }
}

/// Refuses a gradient of a tensor that was not attached. That of another model's `Ddp` is its business; a hook
/// whose `Ddp` is gone is as good as none.
fn check_foreign(visited: &Visited) -> Result<(), String> {
    let hooked = visited
        .hook
        .is_some_and(|(key, _)| use_tracker::is_open(key));
    if visited.gradient.is_none() || hooked {
        return Ok(());
    }
    Err(format!(
        "`{}` is trained and was not there when the model was attached, or its own Ddp is gone; add parameters \
         first, then attach",
        visited.path
    ))
}

/// Refuses gradients of two copies of a parameter.
fn check_giver(earlier: Option<String>, path: &str) -> Result<(), String> {
    earlier.map_or(Ok(()), |earlier| {
        Err(format!(
            "`{earlier}` and `{path}` are copies of one attached parameter, and both got gradients; freeze the \
             copy that is not to be trained, or attach each to a Ddp of its own"
        ))
    })
}

/// Marks the parameters that have hooks of the tracker `key`.
pub(super) fn mark_hooked<M: Module>(parameters: &mut Parameters, key: u64, model: &M) {
    for hook in hooks(model) {
        if hook.key == key {
            parameters.entries[hook.parameter].hooked = true;
        }
    }
}

/// A hook in a model.
pub(super) struct HookFound {
    /// The path of its parameter.
    pub(super) path: String,
    /// The key of its tracker.
    pub(super) key: u64,
    /// The parameter there.
    pub(super) parameter: usize,
}

/// All hooks in a model, in the order of traversal.
pub(super) fn hooks<M: Module>(model: &M) -> Vec<HookFound> {
    let found = visit(model, &mut NoGradients)
        .into_iter()
        .filter_map(|visited| {
            let (key, parameter) = visited.hook?;
            Some(HookFound {
                path: visited.path,
                key,
                parameter,
            })
        });
    found.collect()
}

/// The place of a model's paths relative to those of the attached one.
pub(super) enum Base {
    /// The model contains the attached one under this path, which ends with a dot if it is not empty.
    Within(String),
    /// The model is the part of the attached one under this path.
    Part(String),
}

impl Base {
    /// Compares the paths of a model with those of the attached one.
    pub(super) fn of_model<M: Module>(parameters: &Parameters, key: u64, model: &M) -> Self {
        Self::of(parameters, &visit(model, &mut NoGradients), key)
    }

    fn of(parameters: &Parameters, visited: &[Visited], key: u64) -> Self {
        let known = visited.iter().find_map(|visited| {
            let parameter = visited.parameter(key)?;
            Some((&visited.path, parameter))
        });
        let Some((path, parameter)) = known else {
            return Self::Within(String::new());
        };
        let starts = std::iter::once(0).chain(path.match_indices('.').map(|(at, _)| at + 1));
        for start in starts {
            if parameters.index(&path[start..]) == Some(parameter) {
                return Self::Within(path[..start].to_owned());
            }
        }
        let attached = &parameters.entries[parameter].description.path;
        match attached.strip_suffix(path.as_str()) {
            Some(part) if part.ends_with('.') => Self::Part(part.to_owned()),
            _ => Self::Within(String::new()),
        }
    }

    /// The parameter at a path of the model.
    pub(super) fn index(&self, parameters: &Parameters, path: &str) -> Option<usize> {
        match self {
            Self::Within(base) => parameters.index(path.strip_prefix(base.as_str())?),
            Self::Part(base) => parameters.index(&format!("{base}{path}")),
        }
    }
}

/// Refuses a model in which a trained parameter is not, or not with its hook.
fn check_complete(
    parameters: &Parameters,
    base: &Base,
    places: &[Option<usize>],
    visited: &[Visited],
) -> Result<(), String> {
    let mut found = vec![false; parameters.entries.len()];
    for &parameter in places.iter().flatten() {
        found[parameter] = true;
    }
    let entries = parameters.entries.iter().zip(&found).enumerate();
    let Some((missing, (entry, _))) = entries
        .into_iter()
        .find(|(_, (entry, found))| entry.description.trained && !**found)
    else {
        return Ok(());
    };
    let path = &entry.description.path;
    let there = visited
        .iter()
        .find(|visited| base.index(parameters, &visited.path) == Some(missing));
    Err(match there {
        Some(Visited {
            path: here,
            hook: None,
            ..
        }) => format!(
            "the model that was passed is not the one that `attach` returned: its `{here}` has no hook; \
             train the model that `attach` returned"
        ),
        Some(Visited { path: here, .. }) => format!(
            "`{here}` belongs to another Ddp since it was attached there; call that one's `synchronize`"
        ),
        None => {
            let first = visited.first().map_or("nothing", |visited| &visited.path);
            format!(
                "`{path}` was attached to be trained and is not in the model that was passed, whose parameters \
                 begin with `{first}`; pass the model that was attached, or one that contains it"
            )
        }
    })
}

/// Refuses a parameter that is not what it was when it was attached.
fn check_place(parameters: &Parameters, parameter: usize, visited: &Visited) -> Result<(), String> {
    let entry = &parameters.entries[parameter];
    let path = &visited.path;
    if visited.gradient.is_some() && !entry.description.trained {
        return Err(unfrozen(path));
    }
    if visited.device != entry.device {
        return Err(format!(
            "`{path}` was on {:?} when the model was attached and is on {:?} now; move the model first, then \
             attach",
            entry.device, visited.device
        ));
    }
    Ok(())
}

/// Says that a parameter can't be trained.
pub(super) fn unfrozen(path: &str) -> String {
    format!(
        "`{path}` was frozen when the model was attached and is trained now; unfreeze it first, then attach"
    )
}

/// All float tensors of a model, in the order of traversal, with what was left for them.
fn visit<M: Module>(model: &M, left: &mut impl GradientSource) -> Vec<Visited> {
    let mut collector = Collector {
        path: Path::default(),
        in_hook: false,
        left,
        visited: Vec::new(),
    };
    model.visit(&mut collector);
    collector.visited
}

struct Collector<'a, G> {
    path: Path,
    /// True while the traversal is inside of a hook.
    in_hook: bool,
    left: &'a mut G,
    visited: Vec<Visited>,
}

impl<G: GradientSource> ModuleVisitor for Collector<'_, G> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        if self.in_hook {
            // A hook comes right after its parameter.
            if let (Some(last), Ok(key), Ok(parameter)) = (
                self.visited.last_mut(),
                container_type.parse(),
                name.parse(),
            ) {
                last.hook = Some((key, parameter));
            }
        }
        self.in_hook = name == HOOK && container_type == "Reparameterization";
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.in_hook = false;
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.base();
        let trained = tensor.is_require_grad();
        let gradient = trained.then(|| self.left.take(param)).flatten();
        let gradient = gradient.map(|gradient| {
            let len = gradient.shape().num_elements();
            gradient.reshape([len])
        });
        self.visited.push(Visited {
            path: self.path.joined(),
            hook: None,
            device: tensor.device(),
            leaf: trained
                .then(|| Leaf::behind(tensor))
                .flatten()
                .map(|leaf| leaf.id),
            gradient,
        });
    }
}
