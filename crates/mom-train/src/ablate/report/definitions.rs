//! What the words of a report mean.

/// The definitions behind the numbers: term and meaning.
pub(super) const DEFINITIONS: [(&str, &str); 13] = [
    (
        "Variants",
        "dense: Mamba, whose projections serve all modalities. mom: Mixture-of-Mamba, with in_proj, x_proj, dt_proj and \
         out_proj per modality. null: dense from other initial weights on the same data in the same order; whatever it differs \
         from dense by is chance. mom-alike: mom, whose experts start with the same values. in, x, dt, out and their sums: \
         only these per modality. published: the behaviour of the paper's published code. -unet behind a name: pictures come in \
         and out through a U-Net in place of linear layers, which has weights of its own and costs more FLOPs for each patch.",
    ),
    (
        "Comparison",
        "Each run is compared with the dense run of the same setting, scale and seed, on validation loss: of each modality, \
         and of all together (joint), which is what is trained on.",
    ),
    (
        "Final loss, gain",
        "The final loss is the last evaluation's, as measured. Gain is (L_dense − L) / L_dense of the final losses; \
         positive means below dense.",
    ),
    (
        "Smoothed curve",
        "At each evaluation the value of the least-squares line through it and its two neighbours (for even spacing: the \
         average of three). The first and the last evaluation stay as measured.",
    ),
    (
        "Relative FLOPs, first crossing",
        "First step, interpolated between evaluations, at which the variant's smoothed curve reaches dense's final loss, \
         over dense's steps, times the ratio of active FLOPs per token. The paper reports this quantity; how it treats \
         noise in its curves is not known.",
    ),
    (
        "Relative FLOPs, slope",
        "For each evaluation step s in the second half of dense's run, m(s) is the step at which the variant's smoothed \
         curve first reaches dense's best smoothed loss up to s. The slope is sum(s m) / sum(s s), times the ratio of \
         active FLOPs per token. Steps that the variant never matches are left out, which flatters a variant that falls \
         behind; fewer than three matches give no slope.",
    ),
    (
        "Relative FLOPs, horizons",
        "A run is brought to an end several times: from a point of its constant rate a copy of it is trained on \
         while the rate comes down, and measured. Between its ends a loss is a straight line in log-log. The figure is the \
         steps at which the variant's line has dense's final loss, over dense's steps, times the ratio of active FLOPs per \
         token. The last line is followed to twice the steps.",
    ),
    (
        "95 % interval",
        "Student's t interval of the mean of the differences from dense, seed by seed. The noise of one difference is \
         estimated from the spread of the variant's own differences and from the null's together, and is never taken as \
         smaller than the variant's own. With one seed it stands on the null's one difference alone.",
    ),
    (
        "Verdict",
        "better or worse: the gain is more than chance. Its probability under chance is below 5 % after Holm's adjustment \
         for all comparisons of this report, and its 95 % interval lies beyond dense and beyond the null's mean. Otherwise: \
         not told apart from dense. If all variants were equal to dense, 95 of 100 reports would not tell a single one apart.",
    ),
    (
        "Downstream figures",
        "What a model tells of held-out documents (where asked for). image-to-text, speech-to-text: the share of what its likeliest \
         caption says that is true of the scene, by attribute. text-to-image: the share of what a caption says that the picture drawn \
         for it shows, read from its pixels. text-by-image, text-by-speech: the share of documents whose own text is picked among 16, by \
         log p(text | given) (likelihood) or by that less log p(text) (pmi); chance is 1/16. text-to-speech: wrong words for each 100 of a \
         caption, of what a recogniser hears in the speech that is drawn for it; fewer are better. Their verdicts are adjusted among \
         themselves.",
    ),
    (
        "Bits per byte",
        "Of text: the nats of all text targets of the validation, special tokens among them, over ln 2 and over the bytes that the \
         same targets stand for. It can be compared between tokenizers. What has no bytes has none.",
    ),
    (
        "± and seeds",
        "Mean ± sample standard deviation over seeds (n − 1). One seed has no spread. \"(2 of 3)\" means that one of \
         three seeds has no value (it diverged, or did not reach dense) and is not in the mean.",
    ),
    (
        "FLOPs",
        "Active FLOPs per token count forward and backward of the weights that a token meets; they are equal by design \
         for dense and every variant of Mixture-of-Mamba.",
    ),
];
