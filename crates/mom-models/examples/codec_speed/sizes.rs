//! Random weights of the published sizes, under published names.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

/// Networks that are known here.
pub const NAMES: [&str; 4] = ["vqgan", "vae", "mimi", "hubert"];

/// Writes a network's weights.
pub fn write(name: &str, path: &Path) -> candle_core::Result<()> {
    let mut file = File(BTreeMap::new());
    match name {
        "vqgan" => vqgan(&mut file),
        "vae" => {
            autoencoder(&mut file, &[1, 2, 4, 4], 16, 32);
        }
        "mimi" => mimi(&mut file),
        _ => hubert(&mut file),
    }
    let mut tensors = std::collections::HashMap::new();
    for (name, shape) in file.0 {
        let fan_in: usize = shape.iter().skip(1).product();
        let tensor = if name.contains("norm") && name.ends_with("weight") || name.ends_with("cluster_usage") {
            Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu)?
        } else {
            let reach = (fan_in.max(1) as f32).powf(-0.5);
            Tensor::rand(-reach, reach, shape, &Device::Cpu)?
        };
        tensors.insert(name, tensor);
    }
    candle_core::safetensors::save(&tensors, path)
}

struct File(BTreeMap<String, Vec<usize>>);

impl File {
    fn weight(&mut self, name: &str, shape: &[usize]) {
        self.0.insert(format!("{name}.weight"), shape.to_vec());
    }

    /// A weight, and a bias of its first side.
    fn both(&mut self, name: &str, shape: &[usize]) {
        self.weight(name, shape);
        self.0.insert(format!("{name}.bias"), vec![shape[0]]);
    }

    fn conv(&mut self, name: &str, n_in: usize, n_out: usize, kernel: usize) {
        self.both(name, &[n_out, n_in, kernel, kernel]);
    }

    fn block(&mut self, name: &str, n_in: usize, n_out: usize) {
        self.both(&format!("{name}.norm1"), &[n_in]);
        self.conv(&format!("{name}.conv1"), n_in, n_out, 3);
        self.both(&format!("{name}.norm2"), &[n_out]);
        self.conv(&format!("{name}.conv2"), n_out, n_out, 3);
        if n_in != n_out {
            self.conv(&format!("{name}.nin_shortcut"), n_in, n_out, 1);
        }
    }

    fn middle(&mut self, half: &str, n: usize) {
        self.block(&format!("{half}.mid.block_1"), n, n);
        self.both(&format!("{half}.mid.attn_1.norm"), &[n]);
        for part in ["q", "k", "v", "proj_out"] {
            self.conv(&format!("{half}.mid.attn_1.{part}"), n, n, 1);
        }
        self.block(&format!("{half}.mid.block_2"), n, n);
    }
}

/// 128 channels, two blocks a level.
fn autoencoder(file: &mut File, ch_mult: &[usize], z_in: usize, z_out: usize) {
    let (ch, last) = (128, ch_mult.len() - 1);
    file.conv("encoder.conv_in", 3, ch, 3);
    let mut n = ch;
    for (level, mult) in ch_mult.iter().enumerate() {
        for block in 0..2 {
            file.block(&format!("encoder.down.{level}.block.{block}"), n, ch * mult);
            n = ch * mult;
        }
        if level != last {
            file.conv(&format!("encoder.down.{level}.downsample.conv"), n, n, 3);
        }
    }
    file.middle("encoder", n);
    file.both("encoder.norm_out", &[n]);
    file.conv("encoder.conv_out", n, z_out, 3);
    file.conv("decoder.conv_in", z_in, n, 3);
    file.middle("decoder", n);
    for (level, mult) in ch_mult.iter().enumerate().rev() {
        for block in 0..3 {
            file.block(&format!("decoder.up.{level}.block.{block}"), n, ch * mult);
            n = ch * mult;
        }
        if level != 0 {
            file.conv(&format!("decoder.up.{level}.upsample.conv"), n, n, 3);
        }
    }
    file.both("decoder.norm_out", &[n]);
    file.conv("decoder.conv_out", n, 3, 3);
}

fn vqgan(file: &mut File) {
    autoencoder(file, &[1, 1, 2, 2, 4], 256, 256);
    file.conv("quant_conv", 256, 256, 1);
    file.conv("post_quant_conv", 256, 256, 1);
    file.weight("quantize.embedding", &[8192, 256]);
}

fn mimi(file: &mut File) {
    let (n, mut channels) = (512, 64);
    file.both("encoder.layers.0.conv", &[channels, 1, 7]);
    file.both("decoder.layers.0.conv", &[1024, n, 7]);
    for (i, ratio) in [4, 5, 6, 8].into_iter().enumerate() {
        file.both(&format!("encoder.layers.{}.block.1.conv", 3 * i + 1), &[channels / 2, channels, 3]);
        file.both(&format!("encoder.layers.{}.block.3.conv", 3 * i + 1), &[channels, channels / 2, 1]);
        file.both(&format!("encoder.layers.{}.conv", 3 * i + 3), &[2 * channels, channels, 2 * ratio]);
        channels *= 2;
    }
    file.both("encoder.layers.14.conv", &[n, channels, 3]);
    for (i, ratio) in [8, 6, 5, 4].into_iter().enumerate() {
        let conv = format!("decoder.layers.{}.conv", 3 * i + 2);
        file.weight(&conv, &[channels, channels / 2, 2 * ratio]);
        channels /= 2;
        file.0.insert(format!("{conv}.bias"), vec![channels]);
        file.both(&format!("decoder.layers.{}.block.1.conv", 3 * i + 3), &[channels / 2, channels, 3]);
        file.both(&format!("decoder.layers.{}.block.3.conv", 3 * i + 3), &[channels, channels / 2, 1]);
    }
    file.both("decoder.layers.14.conv", &[1, channels, 3]);
    file.weight("downsample.conv", &[n, n, 4]);
    file.weight("upsample.conv", &[n, 1, 4]);
    for half in ["encoder", "decoder"] {
        for layer in 0..8 {
            let layer = format!("{half}_transformer.layers.{layer}");
            for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                file.weight(&format!("{layer}.self_attn.{part}"), &[n, n]);
            }
            file.weight(&format!("{layer}.mlp.fc1"), &[4 * n, n]);
            file.weight(&format!("{layer}.mlp.fc2"), &[n, 4 * n]);
            for part in ["input_layernorm", "post_attention_layernorm"] {
                file.both(&format!("{layer}.{part}"), &[n]);
            }
            for part in ["self_attn_layer_scale", "mlp_layer_scale"] {
                file.0.insert(format!("{layer}.{part}.scale"), vec![n]);
            }
        }
    }
    for (book, n_layers) in [("semantic", 1), ("acoustic", 31)] {
        let book = format!("quantizer.{book}_residual_vector_quantizer");
        file.weight(&format!("{book}.input_proj"), &[256, n, 1]);
        file.weight(&format!("{book}.output_proj"), &[n, 256, 1]);
        for layer in 0..n_layers {
            let codebook = format!("{book}.layers.{layer}.codebook");
            file.0.insert(format!("{codebook}.embed_sum"), vec![2048, 256]);
            file.0.insert(format!("{codebook}.cluster_usage"), vec![2048]);
            file.0.insert(format!("{codebook}.initialized"), vec![1]);
        }
    }
}

fn hubert(file: &mut File) {
    let (n, conv) = (768, 512);
    for (layer, kernel) in [10, 3, 3, 3, 3, 2, 2].into_iter().enumerate() {
        let n_in = if layer == 0 { 1 } else { conv };
        file.weight(&format!("feature_extractor.conv_layers.{layer}.conv"), &[conv, n_in, kernel]);
    }
    file.both("feature_extractor.conv_layers.0.layer_norm", &[conv]);
    file.both("feature_projection.layer_norm", &[conv]);
    file.both("feature_projection.projection", &[n, conv]);
    file.0.insert("encoder.pos_conv_embed.conv.weight_g".to_owned(), vec![1, 1, 128]);
    file.0.insert("encoder.pos_conv_embed.conv.weight_v".to_owned(), vec![n, n / 16, 128]);
    file.0.insert("encoder.pos_conv_embed.conv.bias".to_owned(), vec![n]);
    file.both("encoder.layer_norm", &[n]);
    for layer in 0..12 {
        let layer = format!("encoder.layers.{layer}");
        for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            file.both(&format!("{layer}.attention.{part}"), &[n, n]);
        }
        file.both(&format!("{layer}.feed_forward.intermediate_dense"), &[4 * n, n]);
        file.both(&format!("{layer}.feed_forward.output_dense"), &[n, 4 * n]);
        file.both(&format!("{layer}.layer_norm"), &[n]);
        file.both(&format!("{layer}.final_layer_norm"), &[n]);
    }
}
