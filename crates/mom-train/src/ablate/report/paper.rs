//! The paper's own figures, to stand beside ours: arXiv 2501.16295, relative training FLOPs to match dense Mamba.

/// One published figure, at the largest scale of its setting.
pub(super) struct Published {
    setting: &'static str,
    modality: &'static str,
    /// Relative FLOPs to match dense's final loss, in percent.
    pub(super) percent: f64,
    /// Scale at which the paper measured it.
    pub(super) scale: &'static str,
}

const PUBLISHED: [Published; 4] = [
    Published { setting: "transfusion", modality: "image", percent: 34.76, scale: "1.4B" },
    Published { setting: "chameleon", modality: "image", percent: 42.50, scale: "1.5B" },
    Published { setting: "chameleon", modality: "text", percent: 65.40, scale: "1.5B" },
    Published { setting: "three-modality", modality: "speech", percent: 24.80, scale: "1.5B" },
];

/// The paper's figure for a setting and modality, where it gives one.
pub(super) fn published(setting: &str, modality: &str) -> Option<&'static Published> {
    PUBLISHED.iter().find(|published| published.setting == setting && published.modality == modality)
}
