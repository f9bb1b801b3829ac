//! A model of four blocks in candle, trained and then decoded token by token.
//!
//! A document is six random words followed by a picture of six codes, one for each word. Documents are packed into sequences; words
//! and codes are two modalities with weights of their own in all four projections. After training the model is given new words and
//! draws their codes, carrying the state of each block from token to token.
//!
//! `cargo run --release -p mom-core --example train_and_decode`: a few seconds.

use mom_core::candle_core::{DType, Device, Tensor};
use mom_core::candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap, loss};
use mom_core::{
    Block, BlockConfig, Draw, Init, MixerConfig, MixerState, Plan, Result, RmsNorm, Untied, to_positions, to_rows,
};

const N_WORDS: u32 = 8;
const PER_PART: usize = 6;
/// Words, then codes, then the token that begins a document.
const VOCAB_SIZE: usize = 2 * N_WORDS as usize + 1;
const BEGIN: u32 = VOCAB_SIZE as u32 - 1;
const DOCUMENT: usize = 1 + 2 * PER_PART;
const D_MODEL: usize = 48;
const TEXT: u8 = 0;
const IMAGE: u8 = 1;

struct Model {
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Tensor,
}

impl Model {
    fn new(vb: &VarBuilder) -> Result<Self> {
        let mixer = MixerConfig { n_modalities: 2, untied: Untied::ALL, ..MixerConfig::new(D_MODEL) };
        let config = BlockConfig::new(mixer);
        let (init, n_blocks) = (Init::seeded(0), 4);
        let in_blocks = init.with_residual_scale(f64::from(n_blocks).powf(-0.5));
        let blocks = (0..n_blocks).map(|i| Block::new(&config, &in_blocks, vb.pp(format!("blocks.{i}"))));
        let shape = [VOCAB_SIZE, D_MODEL];
        Ok(Self {
            embedding: init.parameter(vb, &shape, "embedding.weight", "embedding.weight", Draw::Normal(0.5))?,
            blocks: blocks.collect::<Result<_>>()?,
            norm: RmsNorm::new(D_MODEL, 1e-5, &init, vb.pp("norm"))?,
            head: init.parameter(vb, &shape, "head.weight", "head.weight", Draw::Normal(0.05))?,
        })
    }

    /// Logits `(batch * seqlen, VOCAB_SIZE)` of whole sequences.
    fn forward(&self, tokens: &[u32], plan: &Plan) -> Result<Tensor> {
        let tokens = Tensor::new(tokens, &Device::Cpu)?;
        let x = self.embedding.index_select(&tokens, 0)?.reshape((plan.batch(), plan.seqlen(), D_MODEL))?;
        // From here on rows lie in modality order; the blocks find the time order through the plan.
        let x = Block::forward_all(&self.blocks, &to_rows(&x, plan)?, plan)?;
        let x = to_positions(&self.norm.forward(&x)?, plan)?;
        Ok(x.reshape((plan.n_rows(), D_MODEL))?.matmul(&self.head.t()?)?)
    }

    /// Logits `(VOCAB_SIZE)` after one more token of one sequence.
    fn step(&self, token: u32, states: &mut [MixerState]) -> Result<Tensor> {
        let plan = Plan::new(1, 1, 2, &[modality(token)], None)?;
        let mut x = self.embedding.index_select(&Tensor::new(&[token], &Device::Cpu)?, 0)?;
        for (block, state) in self.blocks.iter().zip(states) {
            x = block.step(&x, &plan, state)?;
        }
        Ok(self.norm.forward(&x)?.matmul(&self.head.t()?)?.squeeze(0)?)
    }
}

fn main() -> Result<()> {
    let parameters = VarMap::new();
    let model = Model::new(&VarBuilder::from_varmap(&parameters, DType::F32, &Device::Cpu))?;
    let options = ParamsAdamW { lr: 5e-3, weight_decay: 0.0, ..ParamsAdamW::default() };
    let mut optimizer = AdamW::new(parameters.all_vars(), options)?;
    let mut words = Words(1);

    let (batch, per_sequence, steps) = (8, 4, 300);
    let seqlen = per_sequence * DOCUMENT;
    for step in 0..=steps {
        let tokens: Vec<u32> = (0..batch * per_sequence).flat_map(|_| words.document()).collect();
        let ids: Vec<u8> = tokens.iter().map(|&token| modality(token)).collect();
        let starts: Vec<bool> = tokens.iter().map(|&token| token == BEGIN).collect();
        let logits = model.forward(&tokens, &Plan::new(batch, seqlen, 2, &ids, Some(&starts))?)?;
        // Codes are what can be known: each is to be told at the position before it.
        let before_codes: Vec<u32> =
            (0..tokens.len() - 1).filter(|&at| ids[at + 1] == IMAGE).map(|at| at as u32).collect();
        let targets: Vec<u32> = before_codes.iter().map(|&at| tokens[at as usize + 1]).collect();
        let logits = logits.index_select(&Tensor::new(before_codes, &Device::Cpu)?, 0)?;
        let loss = loss::cross_entropy(&logits, &Tensor::new(targets, &Device::Cpu)?)?;
        optimizer.backward_step(&loss)?;
        if step % 50 == 0 {
            println!("step {step:3}: loss of the codes {:.4} nats", loss.to_scalar::<f32>()?);
        }
    }

    let (mut right, n_documents) = (0, 20);
    for document in 0..n_documents {
        let tokens = words.document();
        let mut states =
            model.blocks.iter().map(|block| block.mixer().initial_state(1)).collect::<Result<Vec<MixerState>>>()?;
        let (prompt, codes) = tokens.split_at(1 + PER_PART);
        let mut logits = model.step(prompt[0], &mut states)?;
        for &token in &prompt[1..] {
            logits = model.step(token, &mut states)?;
        }
        let mut drawn = Vec::new();
        for _ in codes {
            let token = logits.argmax(0)?.to_scalar::<u32>()?;
            drawn.push(token);
            logits = model.step(token, &mut states)?;
        }
        right += drawn.iter().zip(codes).filter(|(drawn, code)| drawn == code).count();
        if document < 3 {
            println!("words {:?}: codes {drawn:?}, of the document {codes:?}", &prompt[1..]);
        }
    }
    println!("{right} of {} codes are right", n_documents * PER_PART);
    assert!(right * 10 > n_documents * PER_PART * 9, "the model has not learned it");
    Ok(())
}

fn modality(token: u32) -> u8 {
    if (N_WORDS..BEGIN).contains(&token) { IMAGE } else { TEXT }
}

/// Random words: a linear congruential generator with this state.
struct Words(u64);

impl Words {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % N_WORDS
    }

    /// Begin, words, and the code of each word: another order of the same eight.
    fn document(&mut self) -> Vec<u32> {
        let words: Vec<u32> = (0..PER_PART).map(|_| self.word()).collect();
        let codes = words.iter().map(|word| N_WORDS + (5 * word + 3) % N_WORDS);
        [BEGIN].into_iter().chain(words.iter().copied()).chain(codes).collect()
    }
}
