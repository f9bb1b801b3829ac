//! Keys and values of what was read.

use candle_core::{DType, Tensor};
use mom_core::{Plan, to_positions, to_rows};

use crate::Result;
use crate::error::require;

/// Keys and values of one block, for a batch of sequences. A clone is a snapshot.
#[derive(Debug, Clone, Default)]
pub struct KeyValues {
    /// `(batch, n_heads, longest, head_dim)` each; none before the first position.
    read: Option<(Tensor, Tensor)>,
    /// Of each sequence, how many places in front are empty: all sequences end at the last one.
    empty: Vec<usize>,
}

impl KeyValues {
    /// Places for keys: positions that the longest sequence has read.
    fn places(&self) -> usize {
        self.read.as_ref().map_or(0, |(keys, _)| keys.dims()[2])
    }

    /// Positions that each of `batch` sequences has read.
    pub(super) fn lens(&self, batch: usize) -> Vec<u32> {
        let places = self.places();
        (0..batch).map(|b| (places - self.empty.get(b).copied().unwrap_or(0)) as u32).collect()
    }

    /// Attention of new positions over all that was read and themselves, rows in modality order; and the state behind them.
    pub(super) fn attend(&self, qkv: [Tensor; 3], n_heads: usize, plan: &Plan) -> Result<(Tensor, Self)> {
        let (batch, n, before) = (plan.batch(), plan.seqlen(), self.places());
        let heads = |rows: &Tensor| -> Result<Tensor> {
            let positions = to_positions(&rows.contiguous()?.detach(), plan)?;
            let width = positions.dims()[2];
            Ok(positions.reshape((batch, n, n_heads, width / n_heads))?.transpose(1, 2)?.contiguous()?)
        };
        let [q, k, v] = qkv;
        let (q, mut k, mut v) = (heads(&q)?, heads(&k)?, heads(&v)?);
        if let Some((keys, values)) = &self.read {
            let of_state = keys.dims()[0];
            require(of_state == batch, "states.batch", &batch.to_string(), of_state)?;
            (k, v) = (Tensor::cat(&[keys, &k], 2)?, Tensor::cat(&[values, &v], 2)?);
        }
        let head_dim = q.dims()[3];
        let scores = q.affine((head_dim as f64).powf(-0.5), 0.0)?.matmul(&k.t()?)?;
        // Softmax in f32 where activations have 16 bits.
        let dtype = scores.dtype();
        let precise = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let mut scores = scores.to_dtype(precise)?;
        if n > 1 || self.empty.iter().any(|&empty| empty > 0) {
            let mask = plan.attention_mask()?;
            let allowed = |position: usize, key: usize| {
                let empty = self.empty.get(position / n).copied().unwrap_or(0);
                (empty..before).contains(&key) || (key >= before && mask.keys(position).contains(&(key - before)))
            };
            let allowed = &allowed;
            let values = (0..batch * n).flat_map(|position| {
                (0..before + n).map(move |key| if allowed(position, key) { 0.0f32 } else { f32::NEG_INFINITY })
            });
            let mask = Tensor::from_vec(values.collect::<Vec<_>>(), (batch, 1, n, before + n), scores.device())?;
            scores = scores.broadcast_add(&mask.to_dtype(precise)?)?;
        }
        let weights = candle_nn::ops::softmax(&scores, 3)?.to_dtype(dtype)?;
        let out = weights.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((batch, n, n_heads * head_dim))?;
        Ok((to_rows(&out, plan)?, Self { read: Some((k, v)), empty: self.empty.clone() }))
    }

    pub(crate) fn select(&self, sequences: &[usize]) -> Result<Self> {
        let Some((keys, values)) = &self.read else { return Ok(self.clone()) };
        let batch = keys.dims()[0];
        if let Some(sequence) = sequences.iter().find(|&&sequence| sequence >= batch) {
            return require(false, "sequences", &format!("below {batch}"), sequence).map(|()| self.clone());
        }
        let ids: Vec<u32> = sequences.iter().map(|&sequence| sequence as u32).collect();
        let ids = Tensor::from_vec(ids, sequences.len(), keys.device())?;
        let empty = sequences.iter().map(|&sequence| self.empty.get(sequence).copied().unwrap_or(0)).collect();
        Ok(Self { read: Some((keys.index_select(&ids, 0)?, values.index_select(&ids, 0)?)), empty })
    }

    /// The sequences of all of them. Those that have read less get empty places in front.
    pub(crate) fn join(states: &[&Self]) -> Result<Self> {
        let places = states.iter().map(|state| state.places()).max().unwrap_or(0);
        if places == 0 {
            return Ok(Self::default());
        }
        let (mut keys, mut values, mut empty) = (Vec::new(), Vec::new(), Vec::new());
        for state in states {
            let Some((of_keys, of_values)) = &state.read else {
                return require(false, "states", "all behind a position, or none", "some").map(|()| Self::default());
            };
            let in_front = places - state.places();
            for (all, tensor) in [(&mut keys, of_keys), (&mut values, of_values)] {
                all.push(tensor.pad_with_zeros(2, in_front, 0)?);
            }
            let batch = of_keys.dims()[0];
            empty.extend((0..batch).map(|b| in_front + state.empty.get(b).copied().unwrap_or(0)));
        }
        Ok(Self { read: Some((Tensor::cat(&keys, 0)?, Tensor::cat(&values, 0)?)), empty })
    }
}
