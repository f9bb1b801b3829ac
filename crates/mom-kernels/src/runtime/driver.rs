//! The NVIDIA driver of this machine.

use super::error::{CudaError, Result};

/// Oldest CUDA version of a driver that loads the kernels, and the driver that has it.
const DRIVER: ((i32, i32), &str) = ((12, 4), "550");

/// Fails unless this machine has a driver that loads the kernels: one of CUDA 12.4 (550) or newer. To be asked before anything
/// else of CUDA: cudarc panics where there is no driver.
///
/// # Errors
/// No driver ([`CudaError::NoDriver`]), or an older one ([`CudaError::OldDriver`]).
pub fn expect_driver() -> Result<()> {
    expect_present()?;
    expect_version(driver_version())
}

/// Fails for a driver, by its version of CUDA as 1000 major + 10 minor, that is older; 0 is one that does not tell.
fn expect_version(version: i32) -> Result<()> {
    let got = (version / 1000, version % 1000 / 10);
    let (needed, name) = DRIVER;
    if version == 0 || got >= needed { Ok(()) } else { Err(CudaError::OldDriver { needed, name, got }) }
}

fn expect_present() -> Result<()> {
    let (names, tried): (&[&str], _) = if cfg!(windows) {
        (&["nvcuda.dll"], "nvcuda.dll")
    } else {
        (&["libcuda.so.1", "libcuda.so"], "libcuda.so.1, libcuda.so")
    };
    // SAFETY: the driver's initialisers are meant to run in any process.
    let found = names.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok());
    if found { Ok(()) } else { Err(CudaError::NoDriver { tried }) }
}

/// Highest CUDA version that the driver takes, 1000 major + 10 minor; 0 where it does not tell.
pub(super) fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: the driver writes one int.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) };
    version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_too_old_is_told_which_is_needed() {
        let message = expect_version(12_020).unwrap_err().to_string();
        assert!(message.contains("12.2") && message.contains("12.4") && message.contains("550"), "{message}");
        for fits in [0, 12_040, 12_080, 13_000] {
            expect_version(fits).unwrap();
        }
    }
}
