//! A Mixture-of-Mamba block whose experts are chosen for each token, rather than by its modality.
//!
//! MoE-Mamba's idea (arXiv 2401.04081) in this block: the same four projections have as many experts as the setting has
//! modalities, one choice for all four; conv and scan run over the mixed sequence. A *learned* router takes the expert with the
//! largest probability and scales the mixer's output by it, and is kept in balance by the loss of Switch Transformers (arXiv
//! 2101.03961, equation 4). The *random* one takes a hash of the position, so that experts see tokens of every kind: what is
//! left of routing where it means nothing.

mod route;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use mom_core::{BlockConfig, Draw, Init, MixerState, MixtureOfMamba, ModalityPlan, Plan, RmsNorm};
use mom_core::{to_positions, to_rows};

pub use route::Route;
use route::hashed;

use crate::Result;
use crate::error::require;

/// `x + p mixer(norm(x))`; parameters `norm.weight`, `mixer.*`, and of a learned router `router.weight`.
#[derive(Debug, Clone)]
pub struct RoutedBlock {
    norm: RmsNorm,
    mixer: MixtureOfMamba,
    /// `(n_experts, d_model)`, of a learned router.
    router: Option<Tensor>,
}

/// State of a routed block: the mixer's, and how many positions each sequence has had.
#[derive(Debug, Clone)]
pub struct RoutedState {
    mixer: MixerState,
    positions: Vec<usize>,
}

/// Experts of rows.
struct Chosen {
    /// Rows sorted by expert.
    plan: Plan,
    /// `(n_rows, 1)`: the chosen expert's probability, of a learned router.
    gate: Option<Tensor>,
    balance: Option<Tensor>,
}

impl RoutedBlock {
    /// A block with the parameters of `vb`; the mixer's weights for each modality are those of the experts.
    ///
    /// # Errors
    /// An invalid configuration; a parameter that is missing, of another shape, or not finite.
    pub fn new(config: &BlockConfig, route: Route, init: &Init, vb: VarBuilder) -> Result<Self> {
        config.validate()?;
        let (n_experts, d_model) = (config.mixer.n_modalities, config.mixer.d_model);
        let router = match route {
            Route::Hashed => None,
            Route::Learned => {
                let draw = Draw::Uniform((d_model as f64).powf(-0.5));
                Some(init.precise(&vb.pp("router"), &[n_experts, d_model], "weight", "weight", draw)?)
            }
        };
        Ok(Self {
            norm: RmsNorm::new(d_model, config.norm_eps, init, vb.pp("norm"))?,
            mixer: MixtureOfMamba::new(&config.mixer, init, vb.pp("mixer"))?,
            router,
        })
    }

    /// `x`: `(n_rows, d_model)`, rows in modality order. Returns the same shape and, of a learned router, the loss that keeps
    /// it in balance.
    ///
    /// # Errors
    /// As [`MixtureOfMamba::forward`].
    pub fn forward(&self, x: &Tensor, plan: &Plan) -> Result<(Tensor, Option<Tensor>)> {
        // The plans of experts would know nothing of other chunks.
        require(plan.context().is_none(), "plan", "that of whole sequences", "that of a chunk of each")?;
        let normed = self.norm.forward(x)?;
        let chosen = self.choose(&normed, plan, &[])?;
        let y = self.mixer.forward(&resorted(&normed, plan, &chosen.plan)?, &chosen.plan)?;
        Ok((self.added(x, &y, plan, &chosen)?, chosen.balance))
    }

    /// The state before a sequence.
    ///
    /// # Errors
    /// As [`MixtureOfMamba::initial_state`].
    pub fn initial_state(&self, batch: usize) -> Result<RoutedState> {
        Ok(RoutedState { mixer: self.mixer.initial_state(batch)?, positions: vec![0; batch] })
    }

    /// As [`Self::forward`], from `state` on. Not differentiable.
    ///
    /// # Errors
    /// As [`MixtureOfMamba::forward_from`].
    pub fn forward_from(&self, x: &Tensor, plan: &Plan, state: &mut RoutedState) -> Result<Tensor> {
        let normed = self.norm.forward(x)?;
        let chosen = self.choose(&normed, plan, &state.positions)?;
        let sorted = resorted(&normed, plan, &chosen.plan)?;
        let y = self.mixer.forward_from(&sorted, &chosen.plan, &mut state.mixer)?;
        state.positions.iter_mut().for_each(|position| *position += plan.seqlen());
        self.added(x, &y, plan, &chosen)
    }

    /// `before`: positions of each sequence's document before the first one; empty where every document begins here.
    fn choose(&self, normed: &Tensor, plan: &Plan, before: &[usize]) -> Result<Chosen> {
        let n_experts = self.mixer.config().n_modalities;
        let by_expert = |ids: &[u8]| -> Result<Plan> {
            let starts = plan.document_starts();
            Ok(ModalityPlan::new(plan.batch(), plan.seqlen(), n_experts, ids, starts)?.into())
        };
        let Some(router) = &self.router else {
            let positions = plan.attention_mask()?.positions_in_documents();
            let before = |at: usize| before.get(at / plan.seqlen()).copied().unwrap_or(0);
            let place = |(at, &t): (usize, &u32)| hashed(t as usize + before(at), n_experts);
            let ids: Vec<u8> = positions.iter().enumerate().map(place).collect();
            return Ok(Chosen { plan: by_expert(&ids)?, gate: None, balance: None });
        };
        // In f32 whatever the activations are: a choice hangs on small differences.
        let precise = if normed.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let logits = normed.to_dtype(precise)?.matmul(&router.t()?)?;
        let shares = candle_nn::ops::softmax(&logits, 1)?;
        let of_rows = shares.detach().argmax(1)?;
        let experts: Vec<u32> = of_rows.to_vec1()?;
        require(experts.iter().all(|&e| (e as usize) < n_experts), "router", "finite logits", "one that is not")?;
        let ids: Vec<u8> = plan.row_of_position().iter().map(|&row| experts[row as usize] as u8).collect();
        let mut used = vec![0.0f64; n_experts];
        experts.iter().for_each(|&expert| used[expert as usize] += 1.0 / experts.len() as f64);
        let used = Tensor::from_vec(used, n_experts, normed.device())?.to_dtype(precise)?;
        let balance = shares.mean(0)?.mul(&used)?.sum_all()?.affine(n_experts as f64, 0.0)?;
        let gate = shares.gather(&of_rows.unsqueeze(1)?, 1)?.to_dtype(normed.dtype())?;
        Ok(Chosen { plan: by_expert(&ids)?, gate: Some(gate), balance: Some(balance.reshape(1)?) })
    }

    /// `x` and what the mixer gave, back in x's order.
    fn added(&self, x: &Tensor, y: &Tensor, plan: &Plan, chosen: &Chosen) -> Result<Tensor> {
        let y = resorted(y, &chosen.plan, plan)?;
        let y = match &chosen.gate {
            Some(gate) => y.broadcast_mul(gate)?,
            None => y,
        };
        Ok((x + y)?)
    }
}

/// Rows of one plan in the order of another one of the same positions.
fn resorted(x: &Tensor, from: &Plan, to: &Plan) -> Result<Tensor> {
    Ok(to_rows(&to_positions(x, from)?, to)?)
}

impl RoutedState {
    pub(crate) fn select(&self, sequences: &[usize]) -> Result<Self> {
        let mixer = self.mixer.select(sequences)?;
        Ok(Self { mixer, positions: sequences.iter().map(|&sequence| self.positions[sequence]).collect() })
    }

    pub(crate) fn join(states: &[&Self]) -> Result<Self> {
        let positions = states.iter().flat_map(|state| state.positions.iter().copied()).collect();
        Ok(Self { mixer: MixerState::join(states.iter().map(|state| &state.mixer))?, positions })
    }
}
