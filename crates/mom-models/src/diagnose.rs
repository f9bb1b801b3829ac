//! Where a value that is not finite comes from.

use candle_core::{DType, Tensor};
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
        let mut x = self.residual_stream(inputs)?;
        if !is_finite(&x)? {
            return Ok(Some("the embedding of tokens and patches".to_owned()));
        }
        for (i, block) in self.backbone().blocks().iter().enumerate() {
            let layer = format!("backbone.layers.{i}");
            let normed = block.norm().forward(&x)?;
            if !is_finite(&normed)? {
                return Ok(Some(format!("{layer}.norm")));
            }
            let y = block.forward(&x, plan)?;
            if !is_finite(&y)? {
                return self.within_mixer(i, &normed, inputs).map(|part| {
                    Some(
                        part.map_or(format!("{layer}.mixer or the sum behind it"), |part| {
                            format!("{layer}.mixer.{part}")
                        }),
                    )
                });
            }
            x = y;
        }
        if !is_finite(&self.backbone().normed(&x)?)? {
            return Ok(Some("backbone.norm_f".to_owned()));
        }
        Ok(None)
    }

    /// The operation of a mixer that gives it; `None` where that cannot be told.
    fn within_mixer(&self, layer: usize, normed: &Tensor, inputs: &Inputs) -> Result<Option<&'static str>> {
        if !normed.device().is_cpu() {
            return Ok(None);
        }
        let mut first = None;
        self.backbone().blocks()[layer].mixer().forward_watched(normed, &inputs.plan, &mut |name, tensor| {
            if first.is_none() && !is_finite(tensor)? {
                first = Some(name);
            }
            Ok(())
        })?;
        Ok(first)
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
