//! AdamW with decoupled weight decay (arXiv 1711.05101), and clipping by the global norm.
//!
//! One pass over each parameter updates it and both moments in place; candle-nn's takes twelve and hides the moments, which
//! a checkpoint needs.

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Tensor, Var};
use mom_core::host::Host;
use mom_models::Parameters;
use rayon::prelude::*;

use crate::config::OptimizerSection;
use crate::error::require;
use crate::{Error, Result};

/// Elements that one task handles; sums over them have a fixed order.
const CHUNK: usize = 1 << 14;

/// The optimiser's state: moments of every parameter, in the order of [`Parameters`].
#[derive(Debug)]
pub struct AdamW {
    parameters: Vec<Parameter>,
    steps: u64,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    variable: Var,
    decays: bool,
    moments: Moments,
}

/// First and second moment of the gradient.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
}

impl Moments {
    fn is_finite(&self) -> bool {
        self.first.iter().chain(&self.second).all(|value| value.is_finite())
    }

    /// Checks what a file holds for a parameter of `n` elements.
    pub fn check(&self, path: &std::path::Path, name: &str, n: usize) -> Result<()> {
        if !self.is_finite() {
            let reason = format!("a moment of {name} is not finite");
            return Err(Error::Content { path: path.into(), reason });
        }
        for (what, len) in [("first", self.first.len()), ("second", self.second.len())] {
            if len != n {
                let reason = format!("{what} moment of {name} has {len} elements, expected {n}");
                return Err(Error::Content { path: path.into(), reason });
            }
        }
        Ok(())
    }
}

/// Whether weight decay applies: to the weights of projections, conv, embedding and heads, not to A_log, D, biases, norms.
pub(crate) fn decays(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let is_norm = name.split('.').any(|part| part.starts_with("norm"));
    !(is_norm || matches!(last, "A_log" | "D" | "bias"))
}

impl AdamW {
    /// An optimiser with zero moments.
    ///
    /// # Errors
    /// Parameters of another element type than f32.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        let parameters = parameters
            .iter()
            .map(|(name, variable)| {
                require(variable.dtype() == DType::F32, "dtype", "f32", variable.dtype().as_str())?;
                let n = variable.elem_count();
                let moments = Moments { first: vec![0.0; n], second: vec![0.0; n] };
                Ok(Parameter { name: name.to_owned(), variable: variable.clone(), decays: decays(name), moments })
            })
            .collect::<Result<_>>()?;
        Ok(Self { parameters, steps: 0 })
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Updates every parameter. `gradients` are in the order of the parameters; `factor` scales them (clipping).
    ///
    /// # Errors
    /// What candle reports.
    pub fn step(
        &mut self,
        gradients: &[Tensor],
        factor: f64,
        learning_rate: f64,
        config: &OptimizerSection,
    ) -> Result<()> {
        self.steps += 1;
        for (parameter, gradient) in self.parameters.iter_mut().zip(gradients) {
            let update = Update::new(self.steps, factor, learning_rate, config, parameter.decays);
            let update = InPlace { update, moments: std::sync::Mutex::new(&mut parameter.moments) };
            // The variable's own storage changes, which its Tensor face would not allow through candle's operations.
            parameter.variable.as_tensor().inplace_op2(&gradient.contiguous()?, &update)?;
        }
        Ok(())
    }

    /// Copies weights, first and second moments, each in the order of the parameters, end to end.
    pub(crate) fn copy_state(&self, to: &mut [f32]) -> Result<()> {
        let mut rest = to;
        let mut copy = |from: &[f32]| {
            let (to, behind) = std::mem::take(&mut rest).split_at_mut(from.len());
            to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
            rest = behind;
        };
        for parameter in &self.parameters {
            copy(Host::<f32>::of("adamw", "weight", parameter.variable.as_tensor())?.slice()?);
        }
        self.parameters.iter().for_each(|parameter| copy(&parameter.moments.first));
        self.parameters.iter().for_each(|parameter| copy(&parameter.moments.second));
        Ok(())
    }

    /// Puts back what a checkpoint's file holds.
    ///
    /// # Errors
    /// Moments of another size, or that are not finite, named.
    pub(crate) fn restore(
        &mut self,
        path: &std::path::Path,
        steps: u64,
        mut moments: impl FnMut(&str) -> Result<Moments>,
    ) -> Result<()> {
        for parameter in &mut self.parameters {
            let stored = moments(&parameter.name)?;
            stored.check(path, &parameter.name, parameter.variable.elem_count())?;
            parameter.moments = stored;
        }
        self.steps = steps;
        Ok(())
    }
}

/// Global norm of gradients, summed in f64 in a fixed order.
pub(crate) fn global_norm(gradients: &[Tensor]) -> Result<f64> {
    let mut total = 0.0;
    for gradient in gradients {
        total += squares(gradient)?;
    }
    Ok(total.sqrt())
}

/// Sum of squares, on the host; NaN or infinite where an element is.
pub(crate) fn squares(tensor: &Tensor) -> Result<f64> {
    let tensor = tensor.flatten_all()?.contiguous()?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    let (guard, layout) = tensor.storage_and_layout();
    let candle_core::Storage::Cpu(CpuStorage::F32(values)) = &*guard else {
        return require(false, "gradient", "f32 on the CPU", tensor.dtype().as_str()).map(|()| f64::NAN);
    };
    Ok(squares_of(&values[layout.start_offset()..layout.start_offset() + tensor.elem_count()]))
}

/// The same of values.
pub(crate) fn squares_of(values: &[f32]) -> f64 {
    let partial: Vec<f64> =
        values.par_chunks(CHUNK).map(|part| part.iter().map(|&x| f64::from(x) * f64::from(x)).sum()).collect();
    partial.iter().sum()
}

/// The constants of a step for parameters that decay, or do not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    factor: f32,
    beta1: f32,
    beta2: f32,
    /// Learning rate over the first moment's bias correction.
    rate: f32,
    /// One over the root of the second moment's.
    root_scale: f32,
    eps: f32,
    /// 1 - learning rate * weight decay.
    decay: f32,
}

impl Update {
    /// Step `step`, counted from 1; `factor` scales gradients.
    pub fn new(step: u64, factor: f64, learning_rate: f64, config: &OptimizerSection, decays: bool) -> Self {
        let bias = |beta: f64| 1.0 - beta.powf(step as f64);
        let (bias1, bias2) = (bias(config.beta1), bias(config.beta2));
        let decay = if decays { 1.0 - learning_rate * config.weight_decay } else { 1.0 };
        Self {
            factor: factor as f32,
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            rate: (learning_rate / bias1) as f32,
            root_scale: (1.0 / bias2.sqrt()) as f32,
            eps: config.eps as f32,
            decay: decay as f32,
        }
    }

    /// Updates weights and moments of as many elements as there are gradients.
    pub fn run(&self, weights: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        weights
            .par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(first.par_chunks_mut(CHUNK).zip(second.par_chunks_mut(CHUNK)))
            .for_each(|((weights, gradient), (first, second))| {
                for (((w, &g), m), v) in weights.iter_mut().zip(gradient).zip(first).zip(second) {
                    let g = g * self.factor;
                    *m = self.beta1 * *m + (1.0 - self.beta1) * g;
                    *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
                    *w = self.decay * *w - self.rate * *m / (v.sqrt() * self.root_scale + self.eps);
                }
            });
    }
}

/// An update as candle takes one: of a variable's own storage.
struct InPlace<'a> {
    update: Update,
    // The trait hands out a shared reference alone; there is one call, so the lock is free.
    moments: std::sync::Mutex<&'a mut Moments>,
}

impl InplaceOp2 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        weights: &mut CpuStorage,
        weights_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(weights), CpuStorage::F32(gradient)) = (weights, gradient) else {
            return Err(candle_core::Error::Msg("adamw: expected f32 weights and gradients".to_owned()));
        };
        let n = weights_layout.shape().elem_count();
        let weights = &mut weights[weights_layout.start_offset()..][..n];
        let gradient = &gradient[gradient_layout.start_offset()..][..n];
        let mut moments = self.moments.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Moments { first, second } = &mut **moments;
        self.update.run(weights, gradient, first, second);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Two parameters, one of which does not decay.
    fn parameters() -> Parameters {
        let build = |vb: candle_nn::VarBuilder| -> mom_models::Result<()> {
            vb.get_with_hints(3, "a.weight", candle_nn::Init::Const(0.5))?;
            vb.get_with_hints(2, "norm.weight", candle_nn::Init::Const(1.0))?;
            Ok(())
        };
        Parameters::collect(DType::F32, &Device::Cpu, build).unwrap().1
    }

    #[test]
    fn steps_are_those_of_the_definition() {
        let parameters = parameters();
        let mut optimiser = AdamW::new(&parameters).unwrap();
        let config = OptimizerSection { weight_decay: 0.1, ..Default::default() };
        let gradients = [[0.3f32, -0.2, 0.1], [0.25, 0.0, 0.0]];
        let (mut weights, mut first, mut second) = ([[0.5f64; 3], [1.0; 3]], [[0.0f64; 3]; 2], [[0.0f64; 3]; 2]);
        for step in 1..=5 {
            let (factor, rate) = (0.5, 1e-2 * f64::from(step));
            let tensors = [
                Tensor::new(&gradients[0][..3], &Device::Cpu).unwrap(),
                Tensor::new(&gradients[1][..2], &Device::Cpu).unwrap(),
            ];
            optimiser.step(&tensors, factor, rate, &config).unwrap();
            for p in 0..2 {
                for i in 0..3 - p {
                    let g = f64::from(gradients[p][i]) * factor;
                    first[p][i] = 0.9 * first[p][i] + 0.1 * g;
                    second[p][i] = 0.95 * second[p][i] + 0.05 * g * g;
                    let m = first[p][i] / (1.0 - 0.9f64.powi(step));
                    let v = second[p][i] / (1.0 - 0.95f64.powi(step));
                    let decay = if p == 0 { 1.0 - rate * 0.1 } else { 1.0 };
                    weights[p][i] = decay * weights[p][i] - rate * m / (v.sqrt() + 1e-8);
                }
            }
        }
        for (p, name) in ["a.weight", "norm.weight"].into_iter().enumerate() {
            let got = parameters.get(name).unwrap().to_vec1::<f32>().unwrap();
            for (i, got) in got.iter().enumerate() {
                assert!((f64::from(*got) - weights[p][i]).abs() < 1e-6, "{name}[{i}]: {got} {}", weights[p][i]);
            }
        }
    }

    #[test]
    fn decay_spares_what_it_should() {
        let names = [
            ("backbone.layers.0.mixer.local_experts_in_proj.1.weight", true),
            ("backbone.layers.0.mixer.conv1d.weight", true),
            ("backbone.embedding.weight", true),
            ("lm_head.weight", true),
            ("backbone.layers.0.mixer.A_log", false),
            ("backbone.layers.0.mixer.D", false),
            ("backbone.layers.0.mixer.dt_proj.bias", false),
            ("backbone.layers.0.norm.weight", false),
            ("backbone.norm_f.weight", false),
            ("patcher.up.levels_0.blocks.1.norm2.weight", false),
            ("patcher.up.levels_0.blocks.1.conv2.weight", true),
            ("patcher.down.norm_out.weight", false),
        ];
        for (name, expected) in names {
            assert_eq!(decays(name), expected, "{name}");
        }
    }

    #[test]
    fn the_norm_is_over_all_gradients_and_shows_what_is_not_finite() {
        let tensors =
            [Tensor::new(&[3.0f32, 0.0], &Device::Cpu).unwrap(), Tensor::new(&[4.0f32], &Device::Cpu).unwrap()];
        assert_eq!(global_norm(&tensors).unwrap(), 5.0);
        let poisoned = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
        assert!(global_norm(&[tensors[0].clone(), poisoned]).unwrap().is_nan());
    }
}
