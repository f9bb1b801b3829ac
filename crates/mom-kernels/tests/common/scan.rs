//! A scan with all its arrays, so that a test can change one of them and run it again.

use std::ops::Range;

use mom_kernels::selective_scan::{
    DeltaActivation, DtBias, ScanGrads, ScanInputs, ScanOutputGrads, ScanOutputs, backward, forward, saved_states_len,
};
use mom_kernels::{Element, ModalityOffsets, ModalityPlan, Result, Rows, RowsMut};

use super::{Fields, Noise, Tokens, cast, poisoned};

#[derive(Clone)]
pub struct ScanCase<T> {
    pub tokens: Tokens,
    pub plan: ModalityPlan,
    pub bias_offsets: ModalityOffsets,
    pub activation: DeltaActivation,
    pub d_inner: usize,
    pub d_state: usize,
    /// Inputs by the names of [`ScanInputs`], rows in modality order.
    pub fields: Fields<T>,
}

impl ScanCase<f64> {
    /// All inputs present, and a dt bias for each modality.
    pub fn random(tokens: Tokens, d_inner: usize, d_state: usize, seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let (n, k, batch) = (tokens.n_rows(), tokens.n_modalities, tokens.batch);
        let fields = Fields::from([
            ("u", noise.values(n * d_inner, 0.0, 1.5)),
            ("dt", noise.values(n * d_inner, 0.0, 1.0)),
            ("dt_bias", noise.values(k * d_inner, -0.5, 1.0)),
            ("a", noise.values(d_inner * d_state, -1.1, 1.0)),
            ("b", noise.values(n * d_state, 0.0, 1.0)),
            ("c", noise.values(n * d_state, 0.0, 1.0)),
            ("d_skip", noise.values(d_inner, 0.5, 1.0)),
            ("z", noise.values(n * d_inner, 0.0, 2.0)),
            ("initial_state", noise.values(batch * d_inner * d_state, 0.0, 1.0)),
        ]);
        Self::new(tokens, DeltaActivation::Softplus, d_inner, d_state, fields)
    }
}

impl<T: Element> ScanCase<T> {
    pub fn new(tokens: Tokens, activation: DeltaActivation, d_inner: usize, d_state: usize, fields: Fields<T>) -> Self {
        let plan = tokens.plan();
        let bias_offsets = plan.modality_offsets().clone();
        Self { tokens, plan, bias_offsets, activation, d_inner, d_state, fields }
    }

    pub fn cast<U: Element>(&self) -> ScanCase<U> {
        let fields = self.fields.iter().map(|(&name, x)| (name, cast(&super::to_f64(x)))).collect();
        ScanCase::new(self.tokens.clone(), self.activation, self.d_inner, self.d_state, fields)
    }

    pub fn without(mut self, names: &[&str]) -> Self {
        self.fields.retain(|name, _| !names.contains(name));
        self
    }

    /// The positions `range` of every sequence, with no initial state.
    pub fn time(&self, range: Range<usize>) -> Self {
        let tokens = self.tokens.time(range.clone());
        let mut fields = self.fields.clone();
        fields.remove("initial_state");
        for (name, width) in self.token_widths() {
            if let Some(x) = fields.get_mut(name) {
                *x = self.tokens.rows_of_time(x, width, range.clone());
            }
        }
        Self::new(tokens, self.activation, self.d_inner, self.d_state, fields)
    }

    /// The arrays with a row for each token.
    pub fn token_widths(&self) -> [(&'static str, usize); 5] {
        [("u", self.d_inner), ("dt", self.d_inner), ("z", self.d_inner), ("b", self.d_state), ("c", self.d_state)]
    }

    pub fn state_len(&self) -> usize {
        self.tokens.batch * self.d_inner * self.d_state
    }

    pub fn saved_len(&self) -> usize {
        saved_states_len(self.tokens.batch, self.tokens.seqlen, self.d_inner, self.d_state)
    }

    pub fn inputs(&self) -> ScanInputs<'_, T> {
        let field = |name| self.fields.get(name).map(Vec::as_slice);
        let rows = |name, width| field(name).map(|x| Rows::new(name, x, width).unwrap());
        ScanInputs::new(
            self.plan.layout(),
            rows("u", self.d_inner).unwrap(),
            rows("dt", self.d_inner).unwrap(),
            field("a").unwrap(),
            rows("b", self.d_state).unwrap(),
            rows("c", self.d_state).unwrap(),
        )
        .with_dt_bias(field("dt_bias").map(|bias| DtBias::new(bias, &self.bias_offsets)))
        .with_delta_activation(self.activation)
        .with_d_skip(field("d_skip"))
        .with_z(rows("z", self.d_inner))
        .with_initial_state(field("initial_state"))
    }

    /// `out`, `last_state` and `saved_states`.
    pub fn forward(&self) -> Fields<T> {
        let mut out = poisoned(self.tokens.n_rows() * self.d_inner);
        let mut last_state = poisoned(self.state_len());
        let mut saved_states = poisoned(self.saved_len());
        let outputs = ScanOutputs::new(RowsMut::new("out", &mut out, self.d_inner).unwrap())
            .with_last_state(&mut last_state[..])
            .with_saved_states(&mut saved_states[..]);
        forward(&self.inputs(), outputs).unwrap();
        Fields::from([("out", out), ("last_state", last_state), ("saved_states", saved_states)])
    }

    /// A gradient for each input by its name, and `out` once more.
    pub fn backward(&self, saved_states: &[T], grad_out: &[T], grad_last_state: Option<&[T]>) -> Fields<T> {
        let mut grads: Fields<T> = self.fields.iter().map(|(&name, x)| (name, poisoned(x.len()))).collect();
        grads.insert("out", poisoned(self.tokens.n_rows() * self.d_inner));
        self.try_backward(saved_states, grad_out, grad_last_state, &mut grads).unwrap();
        grads
    }

    /// Into arrays that the caller made.
    pub fn try_backward(
        &self,
        saved_states: &[T],
        grad_out: &[T],
        grad_last_state: Option<&[T]>,
        grads: &mut Fields<T>,
    ) -> Result<()> {
        let mut slots: std::collections::BTreeMap<_, _> =
            grads.iter_mut().map(|(&name, x)| (name, x.as_mut_slice())).collect();
        let mut vector = |name| slots.remove(name);
        let (grad_dt_bias, grad_a, grad_d_skip) = (vector("dt_bias"), vector("a"), vector("d_skip"));
        let grad_initial_state = vector("initial_state");
        let mut rows = |name, width| vector(name).map(|x| RowsMut::new(name, x, width).unwrap());
        let grads = ScanGrads::new(
            rows("u", self.d_inner).unwrap(),
            rows("dt", self.d_inner).unwrap(),
            grad_a.unwrap(),
            rows("b", self.d_state).unwrap(),
            rows("c", self.d_state).unwrap(),
        )
        .with_grad_dt_bias(grad_dt_bias)
        .with_grad_d_skip(grad_d_skip)
        .with_grad_z(rows("z", self.d_inner))
        .with_grad_initial_state(grad_initial_state)
        .with_out(rows("out", self.d_inner));
        let grad_out = Rows::new("grad_out", grad_out, self.d_inner).unwrap();
        backward(
            &self.inputs(),
            saved_states,
            &ScanOutputGrads::new(grad_out).with_grad_last_state(grad_last_state),
            grads,
        )
    }
}
