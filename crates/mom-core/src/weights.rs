//! Weights of a mixer: what they are, how they are read from a checkpoint, and how the CPU's kernels read them.

#[cfg(feature = "cuda")]
use candle_core::Device;
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use mom_kernels::mixer::MixerWeights;

use crate::error::expect_device;
use crate::host::{Float, Host};
use crate::init::{Draw, Init};
use crate::linear::{GroupedLinear, LinearHosts};
use crate::{MixerConfig, Projection, Result};

const OP: &str = "mixer";

/// Parameters of a [`crate::MixtureOfMamba`], which says their names and draws.
#[derive(Debug)]
pub(crate) struct Weights {
    pub in_proj: GroupedLinear,
    /// `(d_inner, 1, d_conv)`.
    pub conv_weight: Tensor,
    /// `(d_inner)`.
    pub conv_bias: Option<Tensor>,
    pub x_proj: GroupedLinear,
    pub dt_proj: GroupedLinear,
    /// `(d_inner, d_state)`.
    pub a_log: Tensor,
    /// `(d_inner)`.
    pub d_skip: Tensor,
    pub out_proj: GroupedLinear,
}

impl Weights {
    /// The parameters of `vb`; those that a builder over a `VarMap` does not have yet are drawn from `init`.
    ///
    /// # Errors
    /// A parameter that is missing, of another shape, or not finite.
    pub fn new(config: &MixerConfig, init: &Init, vb: &VarBuilder) -> Result<Self> {
        let (d_inner, d_state, d_conv) = (config.d_inner(), config.d_state, config.d_conv);
        let conv_draw = Draw::Uniform((d_conv as f64).powf(-0.5));
        let get = |shape: &[usize], name: &str, draw| init.precise(vb, shape, name, name, draw);
        let conv_bias = config.conv_bias.then(|| get(&[d_inner], "conv1d.bias", conv_draw)).transpose()?;
        Ok(Self {
            in_proj: projection(config, Projection::In, init, vb)?,
            conv_weight: get(&[d_inner, 1, d_conv], "conv1d.weight", conv_draw)?,
            conv_bias,
            x_proj: projection(config, Projection::X, init, vb)?,
            dt_proj: projection(config, Projection::Dt, init, vb)?,
            a_log: get(&[d_inner, d_state], "A_log", Draw::LogRange(d_state))?,
            d_skip: get(&[d_inner], "D", Draw::Constant(1.0))?,
            out_proj: projection(config, Projection::Out, init, vb)?,
        })
    }

    /// Element type of the projections, which is that of the activations.
    pub fn dtype(&self) -> DType {
        self.in_proj.dtype()
    }

    /// Where the weights are.
    #[cfg(feature = "cuda")]
    pub fn device(&self) -> &Device {
        self.a_log.device()
    }

    /// Every parameter; the gradients of a backward pass keep this order.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let conv = std::iter::once(&self.conv_weight).chain(&self.conv_bias);
        self.in_proj
            .tensors()
            .chain(conv)
            .chain(self.x_proj.tensors())
            .chain(self.dt_proj.tensors())
            .chain([&self.a_log, &self.d_skip])
            .chain(self.out_proj.tensors())
    }

    /// Fails unless every parameter is on the device of `x`.
    pub fn expect_beside(&self, x: &Tensor) -> Result<()> {
        let projections = [
            ("in_proj", &self.in_proj),
            ("x_proj", &self.x_proj),
            ("dt_proj", &self.dt_proj),
            ("out_proj", &self.out_proj),
        ];
        for (arg, linear) in projections {
            linear.tensors().try_for_each(|parameter| expect_device(OP, arg, x, parameter))?;
        }
        let small = [("conv1d.weight", &self.conv_weight), ("A_log", &self.a_log), ("D", &self.d_skip)];
        let conv_bias = self.conv_bias.iter().map(|bias| ("conv1d.bias", bias));
        small.into_iter().chain(conv_bias).try_for_each(|(arg, parameter)| expect_device(OP, arg, x, parameter))
    }

    /// All parameters as slices.
    pub fn hosts<T: Float>(&self) -> Result<Hosts<'_, T>> {
        Ok(Hosts {
            in_proj: self.in_proj.hosts()?,
            conv_weight: Host::of(OP, "conv1d.weight", &self.conv_weight)?,
            conv_bias: self.conv_bias.as_ref().map(|bias| Host::of(OP, "conv1d.bias", bias)).transpose()?,
            x_proj: self.x_proj.hosts()?,
            dt_proj: self.dt_proj.hosts()?,
            a_log: Host::of(OP, "A_log", &self.a_log)?,
            d_skip: Host::of(OP, "D", &self.d_skip)?,
            out_proj: self.out_proj.hosts()?,
        })
    }
}

fn projection(config: &MixerConfig, projection: Projection, init: &Init, vb: &VarBuilder) -> Result<GroupedLinear> {
    let features = config.features(projection);
    let bound = (features.0 as f64).powf(-0.5);
    let scale = if projection == Projection::Out { init.residual_scale() } else { 1.0 };
    let bias_draw = if projection == Projection::Dt { Draw::DtBias } else { Draw::Uniform(bound) };
    let draws = (Draw::Uniform(bound * scale), config.has_bias(projection).then_some(bias_draw));
    let own = config.untied.contains(projection).then_some(config.n_modalities);
    GroupedLinear::load(init, vb, &format!("{}_proj", projection.name()), features, own, draws)
}

/// [`Weights`] read as slices.
pub(crate) struct Hosts<'a, T> {
    in_proj: LinearHosts<'a, T>,
    conv_weight: Host<'a, T>,
    conv_bias: Option<Host<'a, T>>,
    x_proj: LinearHosts<'a, T>,
    dt_proj: LinearHosts<'a, T>,
    a_log: Host<'a, T>,
    d_skip: Host<'a, T>,
    out_proj: LinearHosts<'a, T>,
}

impl<T: Float> Hosts<'_, T> {
    pub fn weights(&self) -> Result<MixerWeights<'_, T>> {
        Ok(MixerWeights::new(
            self.in_proj.grouped()?,
            self.conv_weight.slice()?,
            self.x_proj.grouped()?,
            self.dt_proj.grouped()?,
            self.a_log.slice()?,
            self.d_skip.slice()?,
            self.out_proj.grouped()?,
        )
        .with_conv_bias(self.conv_bias.as_ref().map(Host::slice).transpose()?))
    }
}
