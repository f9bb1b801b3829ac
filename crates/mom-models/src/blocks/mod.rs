//! The residual blocks of a backbone, of every arm that is compared.
//!
//! ```text
//! mom_core::Block    Mamba and Mixture-of-Mamba
//! routed             the same mixer, whose experts a router or a hash chooses for each token
//! transformer        attention and a feed-forward layer, with weights for each modality or without
//! states             what decoding carries from one call to the next
//! ```

pub(crate) mod routed;
mod states;
pub(crate) mod transformer;

use std::sync::Arc;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use mom_core::{Arrivals, Block, Init, Plan};

pub use routed::RoutedBlock;
pub use states::States;
pub use transformer::{TransformerBlock, TransformerConfig};

use crate::{Architecture, ModelConfig, Result};

/// All blocks of a backbone, each over what the one before gave.
#[derive(Debug, Clone)]
pub enum Blocks {
    /// Norm, mixer, residual.
    Mamba(Vec<Block>),
    /// A mixer whose experts are chosen for each token.
    Routed(Vec<RoutedBlock>),
    /// Attention and a feed-forward layer, each with norm and residual: one for two of the others.
    Transformer(Vec<TransformerBlock>),
}

/// What a forward pass gives.
#[derive(Debug)]
pub struct Passed {
    /// `(n_rows, d_model)`.
    pub x: Tensor,
    /// What is to be added to the loss, where a router is to be kept in balance: 1 where experts have equal shares.
    pub balance: Option<Tensor>,
}

impl Blocks {
    /// Blocks with the parameters of `layers`, numbered on.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn new(config: &ModelConfig, init: &Init, layers: &VarBuilder) -> Result<Self> {
        let n_blocks = config.scale.n_blocks();
        Ok(match config.variant.architecture() {
            Architecture::Mamba => {
                let block = config.block();
                let blocks = (0..n_blocks).map(|i| Ok(Block::new(&block, init, layers.pp(i))?));
                Self::Mamba(blocks.collect::<Result<_>>()?)
            }
            Architecture::Routed(route) => {
                let block = config.block();
                let blocks = (0..n_blocks).map(|i| RoutedBlock::new(&block, route, init, layers.pp(i)));
                Self::Routed(blocks.collect::<Result<_>>()?)
            }
            Architecture::Transformer(_) => {
                let config = config.transformer();
                let rotary = config.rotary()?;
                let blocks = (0..n_blocks / 2).map(|i| TransformerBlock::new(&config, &rotary, init, layers.pp(i)));
                Self::Transformer(blocks.collect::<Result<_>>()?)
            }
        })
    }

    /// The same blocks with or without recompute, see [`Block::with_recompute`]; of those of Mamba alone.
    pub fn with_recompute(self, recompute: bool) -> Self {
        match self {
            Self::Mamba(blocks) => {
                Self::Mamba(blocks.into_iter().map(|block| block.with_recompute(recompute)).collect())
            }
            others => others,
        }
    }

    /// The same blocks; those of Mamba ask for their weights one by one, see [`Block::with_arrivals`].
    pub(crate) fn with_arrivals(self, arrivals: &Arc<dyn Arrivals>) -> Self {
        match self {
            Self::Mamba(blocks) => {
                let each = blocks.into_iter().enumerate();
                Self::Mamba(each.map(|(index, block)| block.with_arrivals(arrivals.clone(), index)).collect())
            }
            others => others,
        }
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        match self {
            Self::Mamba(blocks) => blocks.len(),
            Self::Routed(blocks) => blocks.len(),
            Self::Transformer(blocks) => blocks.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `x`: `(n_rows, d_model)`, rows in modality order.
    ///
    /// # Errors
    /// As [`Block::forward`].
    pub fn forward(&self, x: &Tensor, plan: &Plan) -> Result<Passed> {
        match self {
            Self::Mamba(blocks) => Ok(Passed { x: Block::forward_all(blocks, x, plan)?, balance: None }),
            Self::Transformer(blocks) => {
                let x = blocks.iter().try_fold(x.clone(), |x, block| block.forward(&x, plan))?;
                Ok(Passed { x, balance: None })
            }
            Self::Routed(blocks) => {
                let (mut x, mut sum) = (x.clone(), None::<Tensor>);
                for block in blocks {
                    let (next, balance) = block.forward(&x, plan)?;
                    x = next;
                    sum = match (sum, balance) {
                        (Some(sum), Some(balance)) => Some((sum + balance)?),
                        (sum, balance) => sum.or(balance),
                    };
                }
                let balance = sum.map(|sum| sum.affine(1.0 / blocks.len() as f64, 0.0)).transpose()?;
                Ok(Passed { x, balance })
            }
        }
    }

    /// One block alone.
    ///
    /// # Errors
    /// As [`Block::forward`].
    pub(crate) fn forward_one(&self, block: usize, x: &Tensor, plan: &Plan) -> Result<Tensor> {
        Ok(match self {
            Self::Mamba(blocks) => blocks[block].forward(x, plan)?,
            Self::Routed(blocks) => blocks[block].forward(x, plan)?.0,
            Self::Transformer(blocks) => blocks[block].forward(x, plan)?,
        })
    }

    /// The states before a sequence.
    ///
    /// # Errors
    /// Parameters of an unsupported element type.
    pub fn initial_states(&self, batch: usize) -> Result<States> {
        Ok(match self {
            Self::Mamba(blocks) => {
                let states = blocks.iter().map(|block| block.mixer().initial_state(batch));
                States::Mamba(states.collect::<Result<_, _>>()?)
            }
            Self::Routed(blocks) => {
                let states = blocks.iter().map(|block| block.initial_state(batch));
                States::Routed(states.collect::<Result<_>>()?)
            }
            Self::Transformer(blocks) => States::Transformer(blocks.iter().map(|_| Default::default()).collect()),
        })
    }

    /// As [`Self::forward`], from states on, which are left as they are after the last position. Not differentiable.
    ///
    /// # Errors
    /// As [`Block::forward_from`]; states of another architecture.
    pub fn forward_from(&self, x: &Tensor, plan: &Plan, states: &mut States) -> Result<Tensor> {
        let mut x = x.clone();
        match (self, states) {
            (Self::Mamba(blocks), States::Mamba(states)) => {
                for (block, state) in blocks.iter().zip(states) {
                    x = if plan.seqlen() == 1 {
                        block.step(&x, plan, state)?
                    } else {
                        block.forward_from(&x, plan, state)?
                    };
                }
            }
            (Self::Routed(blocks), States::Routed(states)) => {
                for (block, state) in blocks.iter().zip(states) {
                    x = block.forward_from(&x, plan, state)?;
                }
            }
            (Self::Transformer(blocks), States::Transformer(states)) => {
                for (block, state) in blocks.iter().zip(states) {
                    x = block.forward_from(&x, plan, state)?;
                }
            }
            _ => return Err(crate::error::config("states", "those of these blocks", "those of another architecture")),
        }
        Ok(x)
    }
}
