//! `speed` and `sizes`.

use std::sync::Arc;

use anyhow::Result;
use mom_models::{ModelConfig, PatcherKind, SCALES, Scale, Setting, UnetConfig, Variant, flops};
use mom_train::Recompute;
use mom_train::config::DistSection;
use mom_train::dist::{Place, World};
use mom_train::speed::{self, SpeedOptions};

use super::arguments::SpeedArguments;
use super::output::say;
use super::{Ended, launch};

/// Times training steps, or decoding.
pub fn speed(arguments: &SpeedArguments) -> Result<Ended> {
    if let Some(n) = arguments.gpus.filter(|n| *n > 1) {
        return launch::launch(n as usize);
    }
    let place = if arguments.gpus == Some(1) { Place::alone() } else { Place::of_process()? };
    // Who has no secret of a launcher's leaves one where ranks of this machine find it.
    let folder = std::env::temp_dir().join(format!("mom-speed-{}", place.port));
    let world = Arc::new(World::join(place, &folder, &DistSection::default())?);
    world.pick_gpu();
    let outcome = timed(arguments, &world);
    if world.is_shared() {
        world.settle(outcome.map_err(|error| mom_train::Error::World { reason: error.to_string() }))?;
    } else {
        outcome?;
    }
    Ok(Ended::Done)
}

/// Times them as a rank of its world.
fn timed(arguments: &SpeedArguments, world: &Arc<World>) -> Result<()> {
    let (setting, variant): (Setting, Variant) = (arguments.setting.parse()?, arguments.variant.parse()?);
    let named: Scale = arguments.scale.parse()?;
    let scale = Scale { n_layers: arguments.layers.unwrap_or(named.n_layers), ..named };
    let options = SpeedOptions {
        patcher: arguments.patcher.parse()?,
        vocab_size: arguments.vocab,
        batch: arguments.batch,
        seqlen: arguments.seqlen,
        accumulate: arguments.accumulate,
        context: arguments.context,
        ctas: arguments.ctas.unwrap_or(DistSection::CTAS),
        steps: arguments.steps,
        device: arguments.device.parse()?,
        precision: arguments.dtype.as_deref().map(str::parse).transpose()?,
        recompute: if arguments.recompute { Recompute::Block } else { Recompute::None },
        graph: arguments.graph.parse()?,
        profile: arguments.profile,
        ..SpeedOptions::new(setting, variant, scale)
    };
    if arguments.decode {
        return decode(&options);
    }
    let speed = speed::measure_in(&options, world)?;
    if !world.is_root() {
        return Ok(());
    }
    let at = |share: f64| 1e3 * speed.step_secs[(share * (speed.step_secs.len() - 1) as f64).round() as usize];
    say!(
        "{} {}{} {} ({} blocks) vocabulary {} batch {} x {}: {:.1} M weights",
        setting,
        variant,
        if options.patcher == PatcherKind::Unet { " with a U-Net" } else { "" },
        scale,
        scale.n_blocks(),
        arguments.vocab,
        arguments.batch,
        arguments.seqlen,
        speed.parameters as f64 / 1e6
    )?;
    if speed.ranks > 1 {
        let each = speed.tokens_per_sec() / speed.ranks as f64;
        say!("{} ranks, {each:.0} tokens/s each; memory and operations below are rank 0's", speed.ranks)?;
    }
    let mfu = speed.mfu().map(|mfu| format!(" (MFU {:.1} %)", 100.0 * mfu)).unwrap_or_default();
    say!(
        "step {:.2} ms ({:.2} to {:.2}), {:.0} tokens/s, {:.1} TFLOP/s{mfu}, peak memory {:.2} GiB, loss {:.4}",
        1e3 * speed.median_secs(),
        at(0.1),
        at(0.9),
        speed.tokens_per_sec(),
        speed.flops_per_sec() / 1e12,
        speed.peak_memory_bytes as f64 / f64::from(1 << 30),
        speed.loss
    )?;
    for (title, rows) in [("one step by part", &speed.profile.parts), ("another by operation", &speed.profile.kernels)]
    {
        let total: f64 = rows.iter().map(|(_, ms)| ms).sum();
        if !rows.is_empty() {
            say!("{title}: {total:.2} ms")?;
        }
        for (name, ms) in rows {
            say!("{ms:9.3} ms {:5.1} %  {name}", 100.0 * ms / total)?;
        }
    }
    if !speed.profile.beside.is_empty() {
        say!("beside it, on a stream of their own:")?;
    }
    for (name, ms) in &speed.profile.beside {
        say!("{ms:9.3} ms          {name}")?;
    }
    Ok(())
}

fn decode(options: &SpeedOptions) -> Result<()> {
    let speed = speed::measure_decoding(options)?;
    let SpeedOptions { setting, variant, scale, vocab_size, batch, .. } = options;
    say!(
        "{setting} {variant} {scale} ({} blocks) vocabulary {vocab_size} batch {batch}, decoding: {:.1} M weights",
        scale.n_blocks(),
        speed.parameters as f64 / 1e6
    )?;
    let last = speed.token_secs.len() - 1;
    let at = |share: f64| 1e3 * speed.token_secs[(share * last as f64).round() as usize];
    say!(
        "token {:.3} ms ({:.3} to {:.3}), {:.0} tokens/s; weights of {:.1} MB at a copy's {:.0} GB/s: {:.3} ms, {:.2} of the token",
        1e3 * speed.median_secs(),
        at(0.1),
        at(0.9),
        speed.tokens_per_sec(),
        speed.weight_bytes / 1e6,
        speed.copy_bytes_per_sec / 1e9,
        1e3 * speed.floor_secs(),
        speed.share_of_floor()
    )
}

/// Prints sizes.
pub fn sizes() -> Result<()> {
    say!(
        "{:<6} {:>7} {:>6}  {:<15} {:>6}  {:>12} {:>12} {:>12}  {:>14}",
        "scale",
        "d_model",
        "blocks",
        "setting",
        "vocab",
        "dense",
        "active",
        "total",
        "FLOPs / token"
    )?;
    for scale in SCALES {
        for setting in Setting::ALL {
            let trained = scale.paper.is_empty() || (scale.paper == "Transfusion") == (setting == Setting::Transfusion);
            if !trained {
                continue;
            }
            let vocab_size = setting.paper_vocab_size();
            let of = |variant| ModelConfig::new(setting, variant, scale, vocab_size);
            let mom = of(Variant::Mom);
            let millions = |n: usize| format!("{:.1} M", n as f64 / 1e6);
            let flops = 3.0 * (flops::backbone_forward(&mom) + flops::head_forward(&mom));
            say!(
                "{:<6} {:>7} {:>6}  {:<15} {:>6}  {:>12} {:>12} {:>12}  {:>14}",
                scale.name,
                scale.d_model,
                scale.n_blocks(),
                setting.name(),
                vocab_size,
                millions(of(Variant::Dense).total_parameters()),
                millions(mom.active_parameters()),
                millions(mom.total_parameters()),
                format!("{:.2} G", flops / 1e9),
            )?;
        }
    }
    say!(
        "Weights of backbone, embedding and head at the paper's vocabulary; FLOPs forward and backward, with the head.\n"
    )?;
    say!("{:<6} {:>12} {:>14}  {:>12} {:>14}", "scale", "linear", "FLOPs / patch", "unet", "FLOPs / patch")?;
    for scale in SCALES.into_iter().filter(|scale| scale.paper.is_empty() || scale.paper == "Transfusion") {
        let linear =
            ModelConfig::new(Setting::Transfusion, Variant::Mom, scale, Setting::Transfusion.paper_vocab_size());
        let unet = ModelConfig { unet: Some(UnetConfig::of_paper(scale.d_model)), ..linear.clone() };
        let of = |config: &ModelConfig| {
            let weights = format!("{:.2} M", config.patcher_parameters() as f64 / 1e6);
            (weights, format!("{:.2} M", 3.0 * flops::patcher_forward(config) / 1e6))
        };
        let ((linear, of_linear), (unet, of_unet)) = (of(&linear), of(&unet));
        say!("{:<6} {linear:>12} {of_linear:>14}  {unet:>12} {of_unet:>14}", scale.name)?;
    }
    say!("Weights of Transfusion's patcher, linear or a U-Net, for the paper's patches of 2 x 2 latents of 8 channels.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    /// Arguments name no crate but clap, so that they cannot take the names from [`Setting`].
    #[test]
    fn the_settings_of_the_command_line_are_all_there_are() {
        let command = SpeedArguments::augment_args(clap::Command::new("speed"));
        let setting = command.get_arguments().find(|argument| argument.get_id() == "setting").unwrap();
        let names: Vec<_> = setting.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        assert_eq!(names, Setting::NAMES);
    }
}
