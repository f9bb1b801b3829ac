//! Initial values: a pure function of a seed and a parameter's name.
//!
//! candle's own initialisers draw from a generator that cannot be seeded on the CPU, and cannot express A_log or the bias
//! of dt. Here every parameter has a stream of its own, keyed by its full name, so that neither the order of creation nor
//! the other parameters matter: two variants of a model agree in every parameter that they share.

use candle_core::{DType, Device, Tensor, Var, WithDType};
use candle_nn::VarBuilder;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::{Error, Result};

/// Values that one task draws.
const PIECE: usize = 1 << 16;

/// Where initial values come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Init {
    seed: u64,
    residual_scale: f64,
    alike: bool,
}

/// Values of a new parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Draw {
    /// The same value everywhere.
    Constant(f64),
    /// Uniform in [-bound, bound).
    Uniform(f64),
    /// Normal with mean 0 and this deviation.
    Normal(f64),
    /// log(1), ..., log(d_state) in every row of (d_inner, d_state): A_log.
    LogRange(usize),
    /// The inverse softplus of a log-uniform draw in [1e-3, 1e-1], at least 1e-4: the bias of dt.
    DtBias,
}

impl Init {
    /// Initial values from a seed.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, residual_scale: 1.0, alike: false }
    }

    /// Multiplies out_proj's draw: mamba_ssm divides it by the square root of the number of residual blocks.
    pub fn with_residual_scale(self, residual_scale: f64) -> Self {
        Self { residual_scale, ..self }
    }

    /// Every modality's projections start with the values of modality 0's, rather than with a draw of their own: a mixture is
    /// then, at its start, the dense model of that seed.
    pub fn with_experts_alike(self) -> Self {
        Self { alike: true, ..self }
    }

    /// The modality whose draw a modality's projections start with.
    pub(crate) fn draw_of(&self, modality: usize) -> usize {
        if self.alike { 0 } else { modality }
    }

    /// Factor on out_proj's draw.
    pub fn residual_scale(&self) -> f64 {
        self.residual_scale
    }

    /// The parameter `name` under `vb`: as stored, where the builder has it, else drawn.
    ///
    /// `key` names the stream of the draw under the builder's prefix; it is the name itself, except that the weight of
    /// modality 0 and a shared weight have one key, so that a dense model starts as the first modality of a mixture does.
    ///
    /// # Errors
    /// A stored parameter of another shape, as candle reports it, or with a value that is not finite
    /// ([`Error::Parameter`]); one that a builder over files does not have.
    pub fn parameter(&self, vb: &VarBuilder, shape: &[usize], name: &str, key: &str, draw: Draw) -> Result<Tensor> {
        self.parameter_as(vb, vb.dtype(), shape, name, key, draw)
    }

    /// As [`Self::parameter`], in f32 where the builder's element type has 16 bits: A_log, D, conv taps, biases and norms,
    /// which are small, and which the kernels compute with in f32.
    ///
    /// # Errors
    /// As [`Self::parameter`].
    pub fn precise(&self, vb: &VarBuilder, shape: &[usize], name: &str, key: &str, draw: Draw) -> Result<Tensor> {
        let dtype = match vb.dtype() {
            DType::BF16 | DType::F16 => DType::F32,
            dtype => dtype,
        };
        self.parameter_as(vb, dtype, shape, name, key, draw)
    }

    fn parameter_as(
        &self,
        vb: &VarBuilder,
        dtype: DType,
        shape: &[usize],
        name: &str,
        key: &str,
        draw: Draw,
    ) -> Result<Tensor> {
        let is_stored = vb.contains_tensor(name);
        // A builder over a VarMap makes what it does not have, from a hint that cannot say what is wanted here: the values of
        // such a new variable are set below. Builders over files ignore the hint, and refuse what they do not have.
        let tensor = vb.get_with_hints_dtype(shape, name, candle_nn::Init::Const(0.0), dtype)?;
        let prefix = vb.prefix();
        let full = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        if is_stored {
            expect_finite(&tensor, || full(name))?;
        } else if tensor.is_variable() {
            let n = shape.iter().product();
            // Rounded on the host: a device would compile a kernel for it.
            let values = Tensor::from_vec(self.values(&full(key), n, draw), shape, &Device::Cpu)?;
            let values = values.to_dtype(tensor.dtype())?.to_device(tensor.device())?;
            Var::from_tensor(&tensor)?.set(&values)?;
        }
        Ok(tensor)
    }

    fn values(&self, key: &str, n: usize, draw: Draw) -> Vec<f64> {
        // A draw takes a fixed number of the stream's 32-bit words, so that any piece of it can be drawn apart.
        let draws = |words: u128, draw: &(dyn Fn(&mut ChaCha8Rng) -> f64 + Sync)| {
            let mut values = vec![0.0; n];
            values.par_chunks_mut(PIECE).enumerate().for_each(|(at, values)| {
                let mut rng = self.stream(key);
                rng.set_word_pos((at * PIECE) as u128 * words);
                values.fill_with(|| draw(&mut rng));
            });
            values
        };
        match draw {
            Draw::Constant(value) => vec![value; n],
            Draw::Uniform(bound) => draws(2, &|rng| bound * (2.0 * unit(rng) - 1.0)),
            Draw::Normal(deviation) => draws(4, &|rng| deviation * normal(rng)),
            Draw::LogRange(d_state) => (0..n).map(|i| ((i % d_state + 1) as f64).ln()).collect(),
            Draw::DtBias => {
                let (low, high) = (1e-3f64.ln(), 1e-1f64.ln());
                draws(2, &|rng| {
                    let delta = (low + unit(rng) * (high - low)).exp().max(1e-4);
                    // softplus(x) = delta for x = delta + log(1 - e^-delta)
                    delta + (-(-delta).exp_m1()).ln()
                })
            }
        }
    }

    /// A stream of its own for every seed and key: the key's FNV-1a hash beside the seed.
    fn stream(&self, key: &str) -> ChaCha8Rng {
        let hash =
            key.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&hash.to_le_bytes());
        seed[16..24].copy_from_slice(&(key.len() as u64).to_le_bytes());
        ChaCha8Rng::from_seed(seed)
    }
}

/// Fails for a stored parameter that holds NaN or an infinity, which nothing could be made of but more of them.
fn expect_finite(tensor: &Tensor, name: impl Fn() -> String) -> Result<()> {
    if tensor.elem_count() == 0 {
        return Ok(());
    }
    // On the host, wherever it lies: a device would compile kernels for it.
    let host = tensor.detach().flatten_all()?.to_device(&Device::Cpu)?;
    let bad = match host.dtype() {
        DType::F64 => first_not_finite::<f64>(&host)?,
        DType::F32 => first_not_finite::<f32>(&host)?,
        _ => first_not_finite::<f32>(&host.to_dtype(DType::F32)?)?,
    };
    match bad {
        Some((at, value)) => Err(Error::Parameter {
            name: name(),
            expected: "finite values",
            got: format!("{value} at element {at} of {}", host.elem_count()),
        }),
        None => Ok(()),
    }
}

fn first_not_finite<T: WithDType>(values: &Tensor) -> Result<Option<(usize, f64)>> {
    let values = values.to_vec1::<T>()?;
    let at = values.par_iter().position_first(|value| !value.to_f64().is_finite());
    Ok(at.map(|at| (at, values[at].to_f64())))
}

/// Uniform in [0, 1).
fn unit(rng: &mut impl Rng) -> f64 {
    rng.random::<f64>()
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(rng)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use candle_nn::VarMap;

    #[test]
    fn values_depend_on_seed_and_name_alone() {
        let a = Init::seeded(1).values("x.weight", 64, Draw::Uniform(0.5));
        assert_eq!(a, Init::seeded(1).values("x.weight", 64, Draw::Uniform(0.5)));
        assert_ne!(a, Init::seeded(2).values("x.weight", 64, Draw::Uniform(0.5)));
        assert_ne!(a, Init::seeded(1).values("y.weight", 64, Draw::Uniform(0.5)));
        assert!(a.iter().all(|v| v.abs() <= 0.5));
        let normal = Init::seeded(1).values("n", 20_000, Draw::Normal(2.0));
        let (mean, square) = normal.iter().fold((0.0, 0.0), |(m, s), v| (m + v / 2e4, s + v * v / 2e4));
        assert!(mean.abs() < 0.05 && (square - 4.0).abs() < 0.15, "{mean} {square}");
    }

    #[test]
    fn a_long_draw_is_one_stream() {
        let n = 2 * PIECE + 77;
        let init = Init::seeded(5);
        let mut rng = init.stream("x");
        let want: Vec<f64> = (0..n).map(|_| 2.0 * unit(&mut rng) - 1.0).collect();
        assert_eq!(init.values("x", n, Draw::Uniform(1.0)), want);
        let mut rng = init.stream("y");
        let want: Vec<f64> = (0..n).map(|_| normal(&mut rng)).collect();
        assert_eq!(init.values("y", n, Draw::Normal(1.0)), want);
    }

    #[test]
    fn the_bias_of_dt_gives_step_sizes_of_a_thousandth_to_a_tenth() {
        let deltas: Vec<f64> =
            Init::seeded(3).values("dt", 2000, Draw::DtBias).iter().map(|x| x.exp().ln_1p()).collect();
        assert!(deltas.iter().all(|d| (0.000_999..0.100_1).contains(d)));
        let below = deltas.iter().filter(|&&d| d < 0.01).count();
        assert!((900..1100).contains(&below), "log-uniform: half below 0.01, got {below} of 2000");
    }

    #[test]
    fn stored_values_win_over_draws() {
        let map = VarMap::new();
        let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu).pp("layer");
        let first = Init::seeded(1).parameter(&vb, &[2, 3], "w", "w", Draw::Uniform(1.0)).unwrap();
        let again = Init::seeded(9).parameter(&vb, &[2, 3], "w", "w", Draw::Uniform(1.0)).unwrap();
        assert_eq!(first.to_vec2::<f32>().unwrap(), again.to_vec2::<f32>().unwrap());
        assert!(Init::seeded(1).parameter(&vb, &[3, 2], "w", "w", Draw::Uniform(1.0)).is_err());
    }

    #[test]
    fn a_stored_value_that_is_not_finite_is_an_error_and_no_reason_to_draw() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            for (at, bad) in [(0, f64::NAN), (0, f64::INFINITY), (3, f64::NAN), (5, f64::NEG_INFINITY)] {
                let map = VarMap::new();
                let vb = VarBuilder::from_varmap(&map, dtype, &Device::Cpu);
                let get = || Init::seeded(1).parameter(&vb.pp("layer"), &[2, 3], "w", "w", Draw::Uniform(1.0));
                get().unwrap();
                let mut values = vec![0.5; 6];
                values[at] = bad;
                let values = Tensor::from_vec(values, (2, 3), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                map.data().lock().unwrap()["layer.w"].set(&values).unwrap();
                let message = get().unwrap_err().to_string();
                assert!(message.contains("layer.w") && message.contains(&format!("element {at}")), "{message}");
                // As from a file.
                let vb = VarBuilder::from_tensors([("w".to_owned(), values)].into(), dtype, &Device::Cpu);
                assert!(Init::seeded(1).parameter(&vb, &[2, 3], "w", "w", Draw::Uniform(1.0)).is_err());
            }
        }
    }

    #[test]
    fn large_values_are_finite() {
        let map = VarMap::new();
        let vb = VarBuilder::from_varmap(&map, DType::F64, &Device::Cpu);
        let get = || Init::seeded(1).parameter(&vb, &[2], "w", "w", Draw::Uniform(1.0));
        get().unwrap();
        map.data().lock().unwrap()["w"].set(&Tensor::new(&[1e300, -1e300], &Device::Cpu).unwrap()).unwrap();
        get().unwrap();
    }
}
