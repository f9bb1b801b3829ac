//! RMS norm with a weight for each modality, or one for all.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use mom_core::{Init, Plan, RmsNorm};

use crate::Result;

/// `NAME.weight`, or `local_experts_NAME.M.weight`.
#[derive(Debug, Clone)]
pub(super) struct GroupedNorm(Vec<RmsNorm>);

impl GroupedNorm {
    pub fn new(size: usize, eps: f64, own: Option<usize>, init: &Init, vb: &VarBuilder, name: &str) -> Result<Self> {
        let norm = |vb: VarBuilder| Ok(RmsNorm::new(size, eps, init, vb)?);
        Ok(Self(match own {
            None => vec![norm(vb.pp(name))?],
            Some(n) => {
                (0..n).map(|m| norm(vb.pp(format!("local_experts_{name}")).pp(m))).collect::<Result<Vec<_>>>()?
            }
        }))
    }

    /// Rows in modality order.
    pub fn forward(&self, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        let [norm] = &self.0[..] else {
            let mut parts = Vec::new();
            for (modality, norm) in self.0.iter().enumerate() {
                let rows = plan.modality_offsets().rows(modality);
                if !rows.is_empty() {
                    parts.push(norm.forward(&x.narrow(0, rows.start, rows.len())?)?);
                }
            }
            return Ok(if parts.is_empty() { x.clone() } else { Tensor::cat(&parts, 0)? });
        };
        Ok(norm.forward(x)?)
    }
}
