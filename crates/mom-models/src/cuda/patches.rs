//! Image patches on a GPU: their noise, and the error of what a model makes of it.

use candle_core::{DType, Tensor};
use mom_core::autograd::{Backward, record_storage};
use mom_core::cuda::{GpuFloat, OnDevice, OnGpu, dispatch, half};
use mom_core::to_device;
use mom_kernels::cuda::elementwise as kernels;

use crate::Result;

const NOISED: &str = "add_noise";
const ERROR: &str = "squared_error";

/// Patches with their noise in the element type of `like`, where it is: `clean` and `epsilon` are `(n_patches, patch_dim)` in
/// f32, and `factors` two of each patch, of the patch and of its noise.
pub(crate) fn noised(clean: &Tensor, epsilon: &Tensor, factors: &[[f32; 2]], like: &Tensor) -> Result<Tensor> {
    let factors = to_device(factors.as_flattened(), (factors.len(), 2), like.device())?;
    dispatch!(NOISED, "like", like, T => {
        let on = OnGpu::of(like.device())?;
        let gpu = &*on.gpu;
        // SAFETY: the kernel below overwrites all of it; before it nothing reads it.
        let mut out = unsafe { on.uninit::<T>(clean.elem_count()) }?;
        let of = |arg, tensor| OnDevice::<f32>::of(&on, NOISED, arg, tensor);
        let (of_clean, epsilon, factors) = (of("clean", clean)?, of("epsilon", epsilon)?, of("factors", &factors)?);
        let (of_clean, epsilon, factors) = (of_clean.view(gpu)?, epsilon.view(gpu)?, factors.view(gpu)?);
        kernels::add_noise(gpu, &of_clean, &epsilon, &factors, &mut gpu.write(&mut out))?;
        Ok(on.tensor(out, clean.shape()))
    })
}

/// As [`crate::layers::squared_error`]; both are contiguous.
pub(crate) fn squared_error(predicted: Tensor, target: &Tensor, scale: f64) -> Result<Tensor> {
    dispatch!(ERROR, "predicted", predicted, T => {
        let on = OnGpu::of(predicted.device())?;
        let gpu = &*on.gpu;
        // SAFETY: the kernels below overwrite both; before them nothing reads either.
        let mut error = unsafe { on.uninit::<f32>(1) }?;
        // SAFETY: as above.
        let mut workspace = unsafe { on.uninit::<f32>(kernels::squared_error_workspace_len(predicted.elem_count())?) }?;
        {
            let of_predicted = OnDevice::<T>::of(&on, ERROR, "predicted", &predicted)?;
            let target = OnDevice::<f32>::of(&on, ERROR, "target", target)?;
            let (to, workspace) = (&mut gpu.write(&mut error), gpu.write(&mut workspace));
            kernels::squared_error(gpu, &of_predicted.view(gpu)?, &target.view(gpu)?, scale as f32, to, workspace)?;
        }
        let node = SquaredError { predicted: predicted.clone(), target: target.clone(), scale: scale as f32 };
        Ok(record_storage(vec![predicted], on.storage(error), 1, node)?)
    })
}

struct SquaredError {
    predicted: Tensor,
    target: Tensor,
    scale: f32,
}

impl SquaredError {
    fn gradient<T: GpuFloat>(&self, grad: &Tensor) -> Result<Tensor> {
        let on = OnGpu::of(grad.device())?;
        let gpu = &*on.gpu;
        let predicted = OnDevice::<T>::of(&on, ERROR, "predicted", &self.predicted)?;
        let target = OnDevice::<f32>::of(&on, ERROR, "target", &self.target)?;
        let grad = OnDevice::<f32>::of(&on, ERROR, "grad_output", grad)?;
        // SAFETY: the kernel below overwrites all of it; before it nothing reads it.
        let mut out = unsafe { on.uninit::<T>(predicted.len()) }?;
        let (predicted, target, grad) = (predicted.view(gpu)?, target.view(gpu)?, grad.view(gpu)?);
        let scale = self.scale;
        kernels::squared_error_backward(gpu, &predicted, &target, scale, &grad, &mut gpu.write(&mut out))?;
        Ok(on.tensor(out, self.predicted.shape()))
    }
}

impl Backward for SquaredError {
    fn name(&self) -> &'static str {
        ERROR
    }
    fn backward(&self, grad: &Tensor, _: &[bool]) -> candle_core::Result<Vec<Option<Tensor>>> {
        let predicted: Result<Tensor> = match self.predicted.dtype() {
            DType::BF16 => self.gradient::<half::bf16>(grad),
            DType::F16 => self.gradient::<half::f16>(grad),
            _ => self.gradient::<f32>(grad),
        };
        Ok(vec![Some(predicted?)])
    }
}
