//! The PTX of the kernels, as text inside of the crate.

macro_rules! modules {
    ($($variant:ident = $file:literal),* $(,)?) => {
        /// A module: the kernels of one operation and direction, for one element type or for all.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Module { $($variant),* }

        impl Module {
            /// Every module.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Name of the module, which is the name of its file under `ptx/`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $file),* }
            }

            /// Its PTX.
            pub fn ptx(self) -> &'static str {
                // A static each: a constant would stand in the binary once for every function that this one is inlined into.
                match self {
                    $(Self::$variant => {
                        static TEXT: &str = include_str!(concat!("../../ptx/", $file, ".ptx"));
                        TEXT
                    }),*
                }
            }
        }
    };
}

modules! {
    AdamW = "adamw",
    CausalConv1d = "causal_conv1d",
    ColumnSums = "column_sums",
    CrossEntropy = "cross_entropy",
    Embedding = "embedding",
    GroupedGemmBf16 = "grouped_gemm_bf16",
    GroupedGemmF16 = "grouped_gemm_f16",
    GroupedGemmF32 = "grouped_gemm_f32",
    GroupedGemmSm90Bf16 = "grouped_gemm_sm90_bf16",
    GroupedGemmSm90F16 = "grouped_gemm_sm90_f16",
    Mixer = "mixer",
    MixerStepBf16 = "mixer_step_bf16",
    MixerStepF16 = "mixer_step_f16",
    MixerStepF32 = "mixer_step_f32",
    MixerStepSm90Bf16 = "mixer_step_sm90_bf16",
    MixerStepSm90F16 = "mixer_step_sm90_f16",
    ModalityPlan = "modality_plan",
    RmsNorm = "rms_norm",
    SelectiveScanForwardBf16 = "selective_scan_forward_bf16",
    SelectiveScanForwardF16 = "selective_scan_forward_f16",
    SelectiveScanForwardF32 = "selective_scan_forward_f32",
    SelectiveScanBackwardBf16 = "selective_scan_backward_bf16",
    SelectiveScanBackwardF16 = "selective_scan_backward_f16",
    SelectiveScanBackwardF32 = "selective_scan_backward_f32",
    SelectiveScanStep = "selective_scan_step",
    WeightAverage = "weight_average",
}

impl Module {
    /// Whether a card of this compute capability takes it: modules for `sm_90a` run on 9.0 alone.
    pub fn runs_on(self, capability: (i32, i32)) -> bool {
        !self.is_sm90() || capability == (9, 0)
    }

    /// Whether its kernels are for compute capability 9.0 alone.
    pub(super) fn is_sm90(self) -> bool {
        self.directive(".target") == "sm_90a"
    }

    /// A word behind a directive at the head of the PTX: `.version 9.0` -> `9.0`.
    pub(super) fn directive(self, directive: &str) -> &'static str {
        let line = self.ptx().lines().find_map(|line| line.strip_prefix(directive));
        line.map(str::trim).unwrap_or("unknown")
    }

    /// Dynamic shared memory of a kernel in bytes: the constant `<kernel>_shared_bytes` of its module, 0 without one.
    ///
    /// It is read from the text, so that a kernel's source alone knows its layout.
    pub(super) fn shared_bytes(self, kernel: &str) -> u32 {
        let marker = format!(" {kernel}_shared_bytes = ");
        let after = self.ptx().split_once(&marker).map(|(_, after)| after);
        let number = after.and_then(|after| after.split(';').next()).map(str::trim);
        number.and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}
