//! Pictures as the publishers prepare them: pixels by mom-data, values by the codecs.

use candle_core::Device;
use mom_data::RgbImage;
use mom_data::media::image::{Preparation, over_white, prepare};
use mom_models::codecs::pixels::{self, ToBytes};

use crate::golden::Golden;

pub fn run(golden: &Golden) {
    let setting = |name: &str| golden.config[name].as_u64().unwrap() as usize;
    let square = Preparation::Square { size: setting("target_image_size") };
    let multiple = Preparation::Multiple { of: setting("vae_scale_factor") };
    let mut n = 0;
    while golden.has(&format!("rgb_{n}")) {
        let name = format!("rgb_{n}");
        let &[height, width, 3] = golden.shape(&name) else { panic!("{name}") };
        let image = RgbImage { width, height, pixels: golden.bytes(&name).to_vec() };
        for (preparation, want) in [(square, format!("chameleon_{n}")), (multiple, format!("vae_{n}"))] {
            let ready = prepare(&image, preparation).unwrap();
            let got = pixels::from_bytes(&ready.pixels, 1, ready.height, ready.width, &Device::Cpu).unwrap();
            assert_eq!(got.dims(), golden.shape(&want), "{want}");
            // A pixel that is one level off would be off by 2 / 255.
            let worst =
                (&got - golden.f32(&want)).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 1e-6, "{want}: a value is off by {worst}");
            golden.within(&got, &want, 1e-6);
        }
        let decoded = golden.f32(&format!("decoded_{n}")).unsqueeze(0).unwrap();
        for (rule, want) in [(ToBytes::CutOff, "chameleon_u8"), (ToBytes::Round, "diffusers_u8")] {
            let got = pixels::to_bytes(&decoded, rule).unwrap();
            assert!(got == golden.bytes(&format!("{want}_{n}")), "{want}_{n}");
        }
        n += 1;
    }
    assert!(n > 0, "{}: no picture", golden.name);
    let &[height, width, 4] = golden.shape("rgba") else { panic!("rgba") };
    assert!(over_white(golden.bytes("rgba"), width, height).pixels == golden.bytes("rgba_on_white"), "rgba_on_white");
}
