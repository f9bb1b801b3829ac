//! `shards`.

use anyhow::Result;
use mom_data::scenes::{SceneConfig, ShardOptions, write_shards};
use mom_train::ablate::SweepObserver;

use super::arguments::ShardsArguments;
use super::output::say;
use super::signals::Signals;
use super::terminal::Terminal;

/// Writes generated documents.
pub fn shards(arguments: &ShardsArguments) -> Result<()> {
    let ShardsArguments { out, documents, per_shard, image_size, seed, world } = arguments;
    let options = ShardOptions {
        seed: *seed,
        documents: *documents,
        documents_per_shard: *per_shard,
        scene: SceneConfig { image_size: *image_size, world: world.parse()?, ..SceneConfig::default() },
        ..ShardOptions::default()
    };
    let mut terminal = Terminal::new(Signals::catch()?);
    let summary = write_shards(out, &options, |done, total| {
        terminal.preparing("rendering documents", done as u64, total as u64);
    })?;
    say!("{}: {} shards written, {} were there", out.display(), summary.written, summary.kept)
}
