//! Several processes that make one run: a *world* of *ranks*, one rank a GPU.
//!
//! | file | what it does |
//! | --- | --- |
//! | `place` | which rank this process is, as torchrun, Slurm, Open MPI or `--gpus` say |
//! | `hub` | the ranks' word to each other, by TCP through rank 0: who takes part, counts, stops, failures, the id for NCCL |
//! | `world` | what a run asks: am I the root, what do all say, has somebody failed |
//! | `collective` | sums and copies of large arrays through the hub, for ranks on CPUs |
//! | `nccl` | the library, loaded where GPUs need it |
//! | `order` | in which order a rank launches what it exchanges there |
//! | `pieces` | which sequences of a step are a rank's, and which chunk of them |
//! | `chunks` | what goes between ranks that have chunks of the same sequences |
//!
//! Every rank runs the same program over the same configuration. Training data, noise and losses are functions of the *global*
//! step: `train.accumulate` batches of `data.batch` sequences, however many ranks share them, see `pieces`. Gradients are
//! summed over ranks, the optimiser's state is split between them (ZeRO, arXiv 1910.02054), and each rank has all weights.
//!
//! A rank that fails ends all of them, with its message: errors that every rank meets at once (a loss that is not finite) are
//! agreed on and returned by all; any other one is told to the hub, which wakes those that wait ([`World::settle`]).

mod chunks;
mod collective;
mod hub;
#[cfg(feature = "cuda")]
mod nccl;
mod order;
mod pieces;
mod place;
mod world;

pub(crate) use chunks::Chunks;
pub(crate) use hub::Patience;
#[cfg(feature = "cuda")]
pub(crate) use nccl::{Memory, Nccl};
pub(crate) use pieces::{Piece, Pieces};
pub use place::Place;
pub use world::{PARENT_VARIABLE, SECRET_VARIABLE, World, new_secret};
