//! The order in which settings, variants and modalities appear everywhere.

use mom_models::Setting;

const SETTINGS: [&str; Setting::ALL.len()] = Setting::NAMES;
const PROJECTIONS: [&str; 4] = ["in", "x", "dt", "out"];
const MODALITIES: [&str; 3] = ["text", "image", "speech"];

/// The modality whose loss has bytes.
pub(super) const TEXT: &str = "text";
/// The baseline's variant name.
pub(super) const DENSE: &str = "dense";
/// The baseline from other initial weights on the same data: what chance alone makes.
pub(crate) const NULL: &str = "null";
/// The variant with all four projections per modality.
pub(super) const MOM: &str = "mom";
/// What is behind the name of a variant whose pictures come in and out through a U-Net.
pub(crate) const UNET: &str = "-unet";
/// The same, whose experts start alike.
const MOM_ALIKE: &str = "mom-alike";
/// The variant that repeats the published code's behaviour.
pub(super) const PUBLISHED: &str = "published";

/// What else there is to pick, in the order of what it tells: more weights alone, routing by nothing, a learned router,
/// transformers.
const BASELINES: [&str; 5] = ["wide-dense", "random-router", "router", "transformer", "mot"];

/// Place of a setting: the paper's order, then unknown ones by name.
pub(super) fn setting(name: &str) -> (usize, &str) {
    (position(&SETTINGS, name), name)
}

/// Place of a modality: text, image, speech, then unknown ones by name.
pub(super) fn modality(name: &str) -> (usize, &str) {
    (position(&MODALITIES, name), name)
}

/// Place of a variant: dense, the null, mom, mom-alike, single projections, larger combinations, published, then other baselines,
/// those with a U-Net in the same order, unknown ones by name.
pub(super) fn variant(name: &str) -> (usize, Vec<usize>, &str) {
    let parts: Vec<usize> = name.split('+').map(|part| position(&PROJECTIONS, part)).collect();
    if let Some(variant) = name.strip_suffix(UNET) {
        let (place, within, _) = self::variant(variant);
        return (5, [&[place], within.as_slice()].concat(), name);
    }
    match name {
        DENSE => (0, Vec::new(), name),
        NULL => (0, vec![1], name),
        MOM => (1, Vec::new(), name),
        MOM_ALIKE => (1, vec![1], name),
        PUBLISHED => (3, Vec::new(), name),
        _ if parts.iter().all(|&part| part < PROJECTIONS.len()) => {
            // By number of parts first: the count leads the list of places.
            (2, [&[parts.len()], parts.as_slice()].concat(), name)
        }
        _ => (4, vec![position(&BASELINES, name)], name),
    }
}

/// True for what others are judged by: dense, and the null.
pub(super) fn is_yardstick(name: &str) -> bool {
    [DENSE, NULL].contains(&name)
}

/// True for a proper part of Mixture-of-Mamba: some of the four projections per modality.
pub(super) fn is_partial(name: &str) -> bool {
    variant(name).0 == 2
}

fn position(known: &[&str], name: &str) -> usize {
    known.iter().position(|&k| k == name).unwrap_or(known.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_in_order() {
        let expected = [
            "dense",
            "null",
            "mom",
            "in",
            "x",
            "dt",
            "out",
            "in+x",
            "in+out",
            "x+dt",
            "in+x+dt",
            "published",
            "wide-dense",
            "random-router",
            "router",
            "transformer",
            "mot",
            "another",
            "dense-unet",
            "mom-unet",
            "in+x-unet",
        ];
        let mut sorted = expected;
        sorted.reverse();
        sorted.sort_by(|a, b| variant(a).cmp(&variant(b)));
        assert_eq!(sorted, expected);
    }

    #[test]
    fn unknown_settings_and_modalities_come_last() {
        assert!(setting("three-modality") < setting("another"));
        assert!(modality("speech") < modality("depth"));
        assert!(modality("text") < modality("image"));
    }
}
