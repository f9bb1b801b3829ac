//! Where a value that is not finite comes from.

use candle_core::{DType, Tensor};
use mom_core::Block;
use mom_core::autograd::without_tape;

use crate::{Inputs, Model, Result};

impl Model {
    /// The first operation of a forward pass whose output holds a value that is not finite, by the name of its module in the
    /// state dict; `None` where there is none before the loss.
    ///
    /// On a GPU, where a mixer is one operation, no part of it is told apart.
    ///
    /// # Errors
    /// As [`Self::loss_of`].
    pub fn first_not_finite(&self, inputs: &Inputs) -> Result<Option<String>> {
        without_tape(|| self.find_not_finite(inputs))
    }

    fn find_not_finite(&self, inputs: &Inputs) -> Result<Option<String>> {
        if let Some(patches) = &inputs.patches {
            for (name, tensor) in [("the noisy patches, an input", &patches.noisy), ("the noise", &patches.epsilon)] {
                if !is_finite(tensor)? {
                    return Ok(Some(name.to_owned()));
                }
            }
        }
        let plan = &inputs.plan;
        let (mut x, _) = self.residual_stream(inputs)?;
        if !is_finite(&x)? {
            return Ok(Some("the embedding of tokens and patches".to_owned()));
        }
        let blocks = self.backbone().all_blocks();
        for i in 0..blocks.len() {
            let layer = format!("backbone.layers.{i}");
            let y = blocks.forward_one(i, &x, plan)?;
            if !is_finite(&y)? {
                let within = self.backbone().blocks().get(i).map(|block| self.within_block(block, &x, inputs));
                return Ok(Some(format!("{layer}{}", within.transpose()?.unwrap_or_default())));
            }
            x = y;
        }
        if !is_finite(&self.backbone().normed(&x)?)? {
            return Ok(Some("backbone.norm_f".to_owned()));
        }
        Ok(None)
    }

    /// The operation of one of Mamba's blocks that gives it, behind the block's name.
    fn within_block(&self, block: &Block, x: &Tensor, inputs: &Inputs) -> Result<String> {
        let normed = block.norm().forward(x)?;
        if !is_finite(&normed)? {
            return Ok(".norm".to_owned());
        }
        let mut first = None;
        if normed.device().is_cpu() {
            block.mixer().forward_watched(&normed, &inputs.plan, &mut |name, tensor| {
                if first.is_none() && !is_finite(tensor)? {
                    first = Some(name);
                }
                Ok(())
            })?;
        }
        Ok(first.map_or(".mixer or the sum behind it".to_owned(), |name| format!(".mixer.{name}")))
    }
}

/// Whether every value is finite.
fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    if tensor.elem_count() == 0 {
        return Ok(true);
    }
    // Zero times what is not finite is no number.
    let sum = (tensor.to_dtype(DType::F32)? * 0.0)?.sum_all()?;
    Ok(sum.to_scalar::<f32>()? == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn one_value_is_enough() {
        for (bad, finite) in [(1.0f32, true), (f32::MAX, true), (f32::NAN, false), (f32::NEG_INFINITY, false)] {
            let tensor = Tensor::new(&[[0.0, f32::MAX, -f32::MAX], [bad, 1.0, 2.0]], &Device::Cpu).unwrap();
            assert_eq!(is_finite(&tensor).unwrap(), finite, "{bad}");
        }
        assert!(is_finite(&Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap()).unwrap());
    }
}
