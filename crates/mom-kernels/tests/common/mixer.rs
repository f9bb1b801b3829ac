//! A mixer with all its weights, so that a test can change one of them and run it again.

use std::ops::Range;

use mom_kernels::grouped_gemm::GroupedWeights;
use mom_kernels::mixer::{self, MixerGrads, MixerSaved, MixerState, MixerWeights, ProjectionGrads};
use mom_kernels::{Element, ModalityPlan, Rows};

use super::{Fields, Noise, Tokens, cast, to_f64};

/// Which of in_proj, x_proj, dt_proj and out_proj have weights for each modality.
pub type Split = [bool; 4];

#[derive(Clone, Copy)]
pub struct Sizes {
    pub d_model: usize,
    pub d_inner: usize,
    pub d_state: usize,
    pub d_conv: usize,
    pub dt_rank: usize,
}

pub const SMALL: Sizes = Sizes { d_model: 6, d_inner: 10, d_state: 3, d_conv: 4, dt_rank: 2 };

#[derive(Clone)]
pub struct MixerCase<T> {
    pub tokens: Tokens,
    pub plan: ModalityPlan,
    pub sizes: Sizes,
    pub split: Split,
    /// `x`, `A_log`, `D`, `conv.weight`, `conv.bias`, `PROJ.weight`, `PROJ.bias`; groups behind each other.
    pub fields: Fields<T>,
}

impl MixerCase<f64> {
    /// Every bias present.
    pub fn random(tokens: Tokens, sizes: Sizes, split: Split, seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let Sizes { d_model, d_inner, d_state, d_conv, dt_rank } = sizes;
        let [in_proj, x_proj, dt_proj, out_proj] = groups(&tokens, split);
        let fields = Fields::from([
            ("x", noise.values(tokens.n_rows() * d_model, 0.0, 1.5)),
            ("A_log", noise.values(d_inner * d_state, 0.5, 0.7)),
            ("D", noise.values(d_inner, 1.0, 0.5)),
            ("conv.weight", noise.values(d_inner * d_conv, 0.0, 0.7)),
            ("conv.bias", noise.values(d_inner, 0.0, 0.3)),
            ("in_proj.weight", noise.values(in_proj * 2 * d_inner * d_model, 0.0, 0.6)),
            ("in_proj.bias", noise.values(in_proj * 2 * d_inner, 0.0, 0.3)),
            ("x_proj.weight", noise.values(x_proj * (dt_rank + 2 * d_state) * d_inner, 0.0, 0.5)),
            ("dt_proj.weight", noise.values(dt_proj * d_inner * dt_rank, 0.0, 0.7)),
            ("dt_proj.bias", noise.values(dt_proj * d_inner, -1.0, 1.0)),
            ("out_proj.weight", noise.values(out_proj * d_model * d_inner, 0.0, 0.5)),
            ("out_proj.bias", noise.values(out_proj * d_model, 0.0, 0.3)),
        ]);
        let plan = tokens.plan();
        Self { tokens, plan, sizes, split, fields }
    }
}

fn groups(tokens: &Tokens, split: Split) -> [usize; 4] {
    split.map(|split| if split { tokens.n_modalities } else { 1 })
}

impl<T: Element> MixerCase<T> {
    pub fn cast<U: Element>(&self) -> MixerCase<U> {
        let fields = self.fields.iter().map(|(&name, x)| (name, cast(&to_f64(x)))).collect();
        let (tokens, plan) = (self.tokens.clone(), self.plan.clone());
        MixerCase { tokens, plan, sizes: self.sizes, split: self.split, fields }
    }

    pub fn without(mut self, names: &[&str]) -> Self {
        self.fields.retain(|name, _| !names.contains(name));
        self
    }

    /// The positions `range` of every sequence.
    pub fn time(&self, range: Range<usize>) -> Self {
        let mut part = self.clone();
        part.tokens = self.tokens.time(range.clone());
        part.plan = part.tokens.plan();
        part.fields.insert("x", self.tokens.rows_of_time(&self.fields["x"], self.sizes.d_model, range));
        part
    }

    fn projection(&self, at: usize, weight: &str, bias: &str, n_in: usize, n_out: usize) -> GroupedWeights<'_, T> {
        let n_groups = groups(&self.tokens, self.split)[at];
        let weights = self.fields[weight].chunks_exact(n_in * n_out).collect::<Vec<_>>();
        assert_eq!(weights.len(), n_groups);
        let biases = self.fields.get(bias).map(|biases| biases.chunks_exact(n_out).collect());
        GroupedWeights::new(n_in, n_out, weights, biases).unwrap()
    }

    pub fn weights(&self) -> MixerWeights<'_, T> {
        let Sizes { d_model, d_inner, d_state, dt_rank, .. } = self.sizes;
        MixerWeights::new(
            self.projection(0, "in_proj.weight", "in_proj.bias", d_model, 2 * d_inner),
            &self.fields["conv.weight"],
            self.projection(1, "x_proj.weight", "", d_inner, dt_rank + 2 * d_state),
            self.projection(2, "dt_proj.weight", "dt_proj.bias", dt_rank, d_inner),
            &self.fields["A_log"],
            &self.fields["D"],
            self.projection(3, "out_proj.weight", "out_proj.bias", d_inner, d_model),
        )
        .with_conv_bias(self.fields.get("conv.bias").map(Vec::as_slice))
    }

    pub fn x(&self) -> Rows<'_, T> {
        Rows::new("x", &self.fields["x"], self.sizes.d_model).unwrap()
    }

    pub fn forward(&self, state: Option<&mut MixerState<T>>) -> Vec<T> {
        mixer::forward(&self.plan, self.x(), &self.weights(), state).unwrap()
    }

    pub fn forward_saving(&self) -> (Vec<T>, MixerSaved<T>) {
        mixer::forward_saving(&self.plan, self.x(), &self.weights()).unwrap()
    }

    pub fn step(&self, state: &mut MixerState<T>) -> Vec<T> {
        mixer::step(&self.plan, self.x(), &self.weights(), state).unwrap()
    }

    /// A gradient for each field.
    pub fn backward(&self, grad_out: &[T]) -> Fields<T> {
        let (_, saved) = self.forward_saving();
        let grad_out = Rows::new("grad_out", grad_out, self.sizes.d_model).unwrap();
        self.fields_of(mixer::backward(&self.plan, self.x(), &self.weights(), &saved, grad_out).unwrap())
    }

    /// Gradients by the names of the fields.
    pub fn fields_of(&self, grads: MixerGrads<T>) -> Fields<T> {
        let mut fields = Fields::from([
            ("x", grads.x),
            ("A_log", grads.a_log),
            ("D", grads.d_skip),
            ("conv.weight", grads.conv_weight),
            ("conv.bias", grads.conv_bias),
        ]);
        let mut insert = |weight, bias, grads: ProjectionGrads<T>| {
            fields.insert(weight, grads.weights.concat());
            fields.insert(bias, grads.biases.concat());
        };
        insert("in_proj.weight", "in_proj.bias", grads.in_proj);
        insert("x_proj.weight", "x_proj.bias", grads.x_proj);
        insert("dt_proj.weight", "dt_proj.bias", grads.dt_proj);
        insert("out_proj.weight", "out_proj.bias", grads.out_proj);
        for (name, grad) in &fields {
            assert!(self.fields.contains_key(name) || grad.is_empty(), "{name}: gradient without an input");
        }
        fields.retain(|name, _| self.fields.contains_key(name));
        fields
    }
}
