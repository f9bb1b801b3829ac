//! Which functions a pickle may name to be called.
//!
//! Nothing is ever called: a call is kept as the function's name with its arguments. Still a file that asks for anything
//! but tensors, arrays and plain settings was not written by a trainer, and other programs would run what it asks for.

/// Functions and classes whose calls are plain data.
const ALLOWED: &[&str] = &[
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch._tensor._rebuild_from_type_v2",
    "torch.Size",
    "torch.device",
    "torch.nn.modules.container.ParameterList",
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.Counter",
    "argparse.Namespace",
    "pathlib.Path",
    "pathlib.PosixPath",
    "_codecs.encode",
    // numpy, under its old and new homes.
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random.__RandomState_ctor",
    // scikit-learn's k-means, as joblib writes it.
    "joblib.numpy_pickle.NumpyArrayWrapper",
    "sklearn.cluster._kmeans.KMeans",
    "sklearn.cluster._kmeans.MiniBatchKMeans",
    "sklearn.cluster.k_means_.KMeans",
    "sklearn.cluster.k_means_.MiniBatchKMeans",
    // Settings of fairseq's and Lightning's checkpoints.
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
];

/// Classes of Python itself that are plain data.
const BUILTIN: &[&str] = &[
    "object",
    "set",
    "frozenset",
    "list",
    "tuple",
    "dict",
    "int",
    "float",
    "complex",
    "str",
    "bytes",
    "bytearray",
    "bool",
    "slice",
];

/// True for a call that only makes data.
pub(super) fn is_data(function: &str) -> bool {
    if ALLOWED.contains(&function) {
        return true;
    }
    let builtin = function.strip_prefix("builtins.").or_else(|| function.strip_prefix("__builtin__."));
    builtin.is_some_and(|name| BUILTIN.contains(&name))
}

/// True for `copyreg._reconstructor`, which makes an object of the class that is its first argument.
pub(super) fn is_reconstructor(function: &str) -> bool {
    matches!(function, "copyreg._reconstructor" | "copy_reg._reconstructor")
}

/// True for what is a dictionary as soon as it is made.
pub(super) fn is_dict(function: &str) -> bool {
    matches!(
        function,
        "collections.OrderedDict"
            | "collections.defaultdict"
            | "collections.Counter"
            | "builtins.dict"
            | "__builtin__.dict"
    )
}
