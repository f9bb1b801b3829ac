//! Decoding gives what a full forward pass gives, and images come out of noise.
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{Owned, config};
use mom_models::decode::{Continuation, Decoder, Guidance, Sampling};
use mom_models::{Batch, Model, NO_TARGET, Normaliser, Setting, Variant};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn log_softmax(logits: &Tensor, token: u32) -> f64 {
    let logits = logits.to_vec1::<f64>().unwrap();
    let max = logits.iter().copied().fold(f64::MIN, f64::max);
    logits[token as usize] - max - logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln()
}

#[test]
fn pushed_tokens_give_the_losses_of_a_full_pass() {
    [Variant::Mom].into_iter().chain(Variant::BASELINES).for_each(pushed_tokens_of);
}

fn pushed_tokens_of(variant: Variant) {
    let (batch, seqlen) = (2, 12);
    let owned = Owned::new(Setting::ThreeModality, batch, seqlen);
    let (model, _) = Model::seeded(&config(Setting::ThreeModality, variant), 5, DType::F64, &Device::Cpu).unwrap();
    let targets: Vec<u32> =
        (0..batch * seqlen).map(|p| if p % seqlen + 1 < seqlen { owned.tokens[p + 1] } else { NO_TARGET }).collect();
    let view = Batch { targets: &targets, document_starts: &vec![false; batch * seqlen], ..owned.view() };
    for chunk in [1, 4, 11] {
        let mut decoder = Decoder::new(&model, batch).unwrap();
        let mut got = 0.0;
        let mut t = 0;
        while t < seqlen - 1 {
            let n = if t == 0 { chunk } else { 1 };
            let of = |b: usize| b * seqlen + t..b * seqlen + t + n;
            let tokens: Vec<u32> = (0..batch).flat_map(|b| owned.tokens[of(b)].to_vec()).collect();
            let ids: Vec<u8> = (0..batch).flat_map(|b| owned.modality_ids[of(b)].to_vec()).collect();
            let logits = decoder.push(&tokens, &ids).unwrap();
            t += n;
            for b in 0..batch {
                got -= log_softmax(&logits.get(b).unwrap(), owned.tokens[b * seqlen + t]);
            }
        }
        // The losses inside of the first push are not seen from outside: what is left is from its last position on.
        let seen = |p: usize| p % seqlen + 1 >= chunk;
        let targets: Vec<u32> =
            targets.iter().enumerate().map(|(p, &target)| if seen(p) { target } else { NO_TARGET }).collect();
        let view = Batch { targets: &targets, ..view };
        let losses = model.loss(&view, None, Normaliser::of(&view)).unwrap();
        let want: f64 = losses.by_modality().unwrap().iter().map(|loss| loss.sum).sum();
        assert!((got - want).abs() < 1e-9, "{variant}, first push of {chunk}: {got} {want}");
    }
}

#[test]
fn continuations_are_as_likely_as_tokens_that_are_pushed() {
    for variant in [Variant::Dense, Variant::Mom].into_iter().chain(Variant::BASELINES) {
        let (model, _) = Model::seeded(&config(Setting::ThreeModality, variant), 5, DType::F64, &Device::Cpu).unwrap();
        let mut decoder = Decoder::new(&model, 1).unwrap();
        decoder.push(&[1, 2, 9, 10], &[0, 0, 1, 1]).unwrap();
        let (short, long): (&[u32], &[u32]) = (&[3, 5, 6], &[3, 7, 5, 9, 4, 6]);
        let ids = |tokens: &[u32]| tokens.iter().map(|&token| u8::from(token == 9)).collect::<Vec<_>>();
        let by_pushes = |tokens: &[u32]| -> f64 {
            let mut decoder = decoder.clone();
            tokens
                .windows(2)
                .map(|pair| {
                    let logits = decoder.push(&pair[..1], &ids(&pair[..1])).unwrap();
                    log_softmax(&logits.get(0).unwrap(), pair[1])
                })
                .sum()
        };
        let want = [by_pushes(short), by_pushes(long), 0.0];
        let pair = decoder.select(&[0; 3]).unwrap();
        let ids = [ids(short), ids(long), ids(&short[..1])];
        let of = |tokens, at: usize| Continuation { tokens, modality_ids: &ids[at] };
        let all = [of(short, 0), of(long, 1), of(&short[..1], 2)];
        // Twice, since the sequences stay as they are.
        for _ in 0..2 {
            for (got, want) in pair.log_likelihoods(&all).unwrap().iter().zip(want) {
                assert!((got - want).abs() < 1e-9, "{variant}: {got} {want}");
            }
        }
        assert!(pair.log_likelihoods(&all[..2]).is_err() && pair.log_likelihoods(&[of(&[], 0); 3]).is_err());
    }
}

#[test]
fn a_refused_push_leaves_the_states_as_they_were() {
    let (model, _) = Model::seeded(&config(Setting::Chameleon, Variant::Mom), 5, DType::F32, &Device::Cpu).unwrap();
    let mut decoder = Decoder::new(&model, 1).unwrap();
    decoder.push(&[1, 2], &[0, 0]).unwrap();
    let mut same = decoder.clone();
    for (tokens, ids) in [(&[99u32][..], &[0u8][..]), (&[1], &[2]), (&[], &[])] {
        assert!(decoder.push(tokens, ids).is_err());
    }
    let logits = |decoder: &mut Decoder<'_>| decoder.push(&[3], &[1]).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(logits(&mut decoder), logits(&mut same));
}

#[test]
fn images_are_sampled_in_range_and_are_a_function_of_the_generator() {
    let (model, _) = Model::seeded(&config(Setting::Transfusion, Variant::Mom), 5, DType::F32, &Device::Cpu).unwrap();
    let image = |seed: u64, weight: f64| {
        let mut decoder = Decoder::new(&model, 2).unwrap();
        let mut free = decoder.clone();
        decoder.push(&[1, 7, 2, 1, 8, 2], &[0; 6]).unwrap();
        free.push(&[1, 2, 1, 2], &[0; 4]).unwrap();
        let mut rngs = [seed, seed + 100].map(ChaCha8Rng::seed_from_u64);
        let guidance = Some(Guidance { free: &free, weight });
        let patches = decoder.sample_image(4, 20, guidance, &mut rngs).unwrap();
        decoder.push(&[3, 3], &[0, 0]).unwrap();
        patches
    };
    let one = image(1, 3.0);
    assert_eq!(one.len(), 2 * 4 * common::PATCH_DIM);
    assert!(one.iter().all(|x| (-1.0..=1.0).contains(x)));
    assert_eq!(one, image(1, 3.0));
    assert_ne!(one, image(2, 3.0));
    // A generated image stands in the context as the same image pushed does.
    let after = |push: &dyn Fn(&mut Decoder<'_>)| {
        let mut decoder = Decoder::new(&model, 2).unwrap();
        decoder.push(&[1, 7, 2, 1, 8, 2], &[0; 6]).unwrap();
        push(&mut decoder);
        decoder.push(&[3, 3], &[0, 0]).unwrap().to_vec2::<f32>().unwrap()
    };
    let sampled = after(&|decoder| {
        decoder.sample_image(4, 20, None, &mut [9, 8].map(ChaCha8Rng::seed_from_u64)).unwrap();
    });
    let mut decoder = Decoder::new(&model, 2).unwrap();
    decoder.push(&[1, 7, 2, 1, 8, 2], &[0; 6]).unwrap();
    let patches = decoder.sample_image(4, 20, None, &mut [9, 8].map(ChaCha8Rng::seed_from_u64)).unwrap();
    assert_eq!(sampled, after(&|decoder| decoder.push_image(&patches).unwrap()));
    assert!(decoder.push_image(&patches[1..]).unwrap_err().to_string().contains("a multiple of 6 values"));
    let (codes, _) = Model::seeded(&config(Setting::Chameleon, Variant::Mom), 5, DType::F32, &Device::Cpu).unwrap();
    let mut decoder = Decoder::new(&codes, 1).unwrap();
    let error = decoder.sample_image(4, 20, None, &mut [ChaCha8Rng::seed_from_u64(1)]).unwrap_err();
    assert_eq!(error.to_string(), "configuration: setting must be transfusion, got chameleon");
}

#[test]
fn sampling_keeps_to_what_is_allowed() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let logits = [0.0, 5.0, 4.0, 3.0];
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    assert_eq!(greedy.draw(&logits, |_| true, &mut rng).unwrap(), 1);
    assert_eq!(greedy.draw(&logits, |token| token != 1, &mut rng).unwrap(), 2);
    // A long vocabulary: the first of the largest, wherever it lies, and as often as the slow way finds it.
    let long: Vec<f32> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32).collect();
    for start in [0, 1, 255, 256, 257, 4000, 4999] {
        let slow = (start..5000).fold(start, |best, i| if long[i as usize] > long[best as usize] { i } else { best });
        assert_eq!(greedy.draw(&long, |token| token >= start, &mut rng).unwrap(), slow, "{start}");
    }
    assert_eq!(greedy.draw(&[f32::NEG_INFINITY; 300], |token| token > 270, &mut rng).unwrap(), 271);
    let mut broken = long.clone();
    broken[4321] = f32::NAN;
    assert!(greedy.draw(&broken, |_| true, &mut rng).unwrap_err().to_string().contains("logits[4321]"));
    let two = Sampling { temperature: 10.0, top_k: 2, ..Sampling::default() };
    let mut counts = [0; 4];
    for _ in 0..2000 {
        counts[two.draw(&logits, |_| true, &mut rng).unwrap() as usize] += 1;
    }
    assert!(counts[0] == 0 && counts[3] == 0 && (900..1200).contains(&counts[1]), "{counts:?}");
    // Their probabilities: 0.4, 66, 24 and 9 %.
    for (top_p, kept) in [(0.5, &[1][..]), (0.67, &[1, 2]), (0.95, &[1, 2, 3]), (1.0, &[0, 1, 2, 3])] {
        let nucleus = Sampling { top_p, ..Sampling::default() };
        let mut seen: Vec<u32> = (0..3000).map(|_| nucleus.draw(&logits, |_| true, &mut rng).unwrap()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, kept, "{top_p}");
    }
    for (wrong, name) in [
        (Sampling { top_p: 0.0, ..Sampling::default() }, "top_p"),
        (Sampling { top_p: f64::NAN, ..Sampling::default() }, "top_p"),
        (Sampling { temperature: f64::INFINITY, ..Sampling::default() }, "temperature"),
    ] {
        assert!(wrong.draw(&logits, |_| true, &mut rng).unwrap_err().to_string().contains(name));
    }
    assert!(greedy.draw(&logits, |_| false, &mut rng).is_err());
    assert!(greedy.draw(&[f32::NAN], |_| true, &mut rng).unwrap_err().to_string().contains("logits[0]"));
}

#[test]
fn sequences_are_taken_apart_and_put_together() {
    for dtype in [DType::F32, DType::F64] {
        let (model, _) = Model::seeded(&config(Setting::Chameleon, Variant::Mom), 5, dtype, &Device::Cpu).unwrap();
        let of = |tokens: &[u32]| {
            let mut decoder = Decoder::new(&model, 1).unwrap();
            decoder.push(tokens, &vec![0; tokens.len()]).unwrap();
            decoder
        };
        let apart = [of(&[1, 7]), of(&[1, 8, 9]), of(&[1])];
        let together = Decoder::join(&apart).unwrap();
        assert_eq!(together.batch(), 3);
        let next = |decoder: &Decoder<'_>, tokens: &[u32], ids: &[u8]| {
            let logits = decoder.clone().push(tokens, ids).unwrap();
            logits.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap()
        };
        // Of other modalities, too.
        let all = next(&together, &[3, 4, 5], &[0, 1, 0]);
        for (i, (token, id)) in [(3, 0), (4, 1), (5, 0)].into_iter().enumerate() {
            for (a, b) in all[i].iter().zip(&next(&apart[i], &[token], &[id])[0]) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
        let picked = together.select(&[2, 0, 2]).unwrap();
        let of_picked = next(&picked, &[5, 3, 5], &[0; 3]);
        for (row, i) in of_picked.iter().zip([2, 0, 2]) {
            assert!(row.iter().zip(&all[i]).all(|(a, b)| (a - b).abs() < 1e-6));
        }
        assert!(together.select(&[3]).unwrap_err().to_string().contains("sequences must be below 3, got 3"));
        assert!(together.select(&[]).is_err() && Decoder::join([]).is_err());
    }
}

#[test]
fn a_weight_of_one_is_no_guidance() {
    let config = config(Setting::Transfusion, Variant::Mom);
    let (model, parameters) = Model::seeded(&config, 5, DType::F32, &Device::Cpu).unwrap();
    // A new model sees no noise at all.
    for (_, variable) in parameters.iter() {
        let other = (variable.as_tensor() + Tensor::randn_like(variable.as_tensor(), 0.0, 0.1).unwrap()).unwrap();
        variable.set(&other).unwrap();
    }
    let mut decoder = Decoder::new(&model, 1).unwrap();
    let mut free = decoder.clone();
    decoder.push(&[1, 7, 2], &[0; 3]).unwrap();
    free.push(&[1, 2], &[0; 2]).unwrap();
    let image = |weight: Option<f64>| {
        let guidance = weight.map(|weight| Guidance { free: &free, weight });
        decoder.clone().sample_image(4, 10, guidance, &mut [ChaCha8Rng::seed_from_u64(2)]).unwrap()
    };
    assert_eq!(image(Some(1.0)), image(None));
    assert_ne!(image(Some(2.0)), image(None));
    // Whatever stands beside it in a batch.
    let pair = Decoder::join([&free, &decoder]).unwrap();
    let both = pair.clone().sample_image(4, 10, None, &mut [9, 2].map(ChaCha8Rng::seed_from_u64)).unwrap();
    for (a, b) in both[both.len() / 2..].iter().zip(image(None)) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    let message = pair.clone().sample_image(4, 10, None, &mut [ChaCha8Rng::seed_from_u64(2)]).unwrap_err().to_string();
    assert!(message.contains("rngs must be 2, one for each sequence, got 1"), "{message}");
}
