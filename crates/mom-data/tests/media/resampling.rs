//! Resampling keeps the wave, at any two rates and of any length.

use mom_data::media::audio::resample;

fn tone(rate: u32, hertz: f64, n: usize) -> Vec<f32> {
    (0..n).map(|i| (std::f64::consts::TAU * hertz * i as f64 / f64::from(rate)).sin() as f32).collect()
}

fn rms(values: &[f32]) -> f64 {
    (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn resampling_keeps_the_wave_and_drops_what_would_alias() {
    for from in [1000, 6000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000] {
        for to in [8000, 16_000, 22_050, 24_000] {
            let n = from as usize;
            let out = resample(&tone(from, 300.0, n), from, to);
            assert_eq!(out.len(), to as usize);
            let error: Vec<f32> = out.iter().zip(tone(to, 300.0, to as usize)).map(|(a, b)| a - b).collect();
            let middle = &error[to as usize / 8..to as usize * 7 / 8];
            assert!(rms(middle) < 0.001, "{from} to {to}: {}", rms(middle));
        }
    }
    let gone = resample(&tone(16_000, 6000.0, 16_000), 16_000, 8000);
    assert!(rms(&gone[400..7600]) < 1e-4, "{}", rms(&gone[400..7600]));
    let kept = resample(&tone(16_000, 1000.0, 16_000), 16_000, 8000);
    assert!((rms(&kept[400..7600]) / 0.5f64.sqrt() - 1.0).abs() < 0.01);
    // An impulse stays where it is.
    let mut impulse = vec![0.0; 16_000];
    impulse[8000] = 1.0;
    let out = resample(&impulse, 16_000, 44_100);
    let peak = (0..out.len()).max_by(|&a, &b| out[a].total_cmp(&out[b])).unwrap();
    assert_eq!(peak, 22_050);
}

#[test]
fn any_rates_and_lengths_resample() {
    // Rates without a common factor need the longest blocks.
    let rates = [1000, 1001, 7919, 8000, 11_025, 44_100, 48_000, 768_000];
    let pairs = rates.iter().flat_map(|&from| rates.map(|to| (from, to)));
    for (from, to) in pairs.filter(|&(from, to)| from.max(to) < 768_000 || from.min(to) % 1000 == 0) {
        {
            for n in [0usize, 1, 2, 3, 100, 1025] {
                let out = resample(&vec![0.25; n], from, to);
                assert_eq!(
                    out.len() as u64,
                    (n as u64 * u64::from(to)).div_ceil(u64::from(from)),
                    "{n}: {from} to {to}"
                );
                assert!(out.iter().all(|value| value.is_finite()));
            }
        }
    }
    assert_eq!(resample(&[0.1, 0.2], 5, 5), [0.1, 0.2]);
    for (from, to) in [(0, 8000), (8000, 0), (u32::MAX, 8000), (8000, u32::MAX), (1, u32::MAX)] {
        assert!(resample(&[0.5; 10], from, to).is_empty());
    }
}
