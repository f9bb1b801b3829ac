//! Views of device memory, as the checks of arguments see them.

use super::rows::{DeviceRows, DeviceRowsMut};
use super::view::{DeviceMut, DeviceRef};
use crate::shape::{Elements, Matrix};

impl<T> Elements for DeviceRef<'_, T> {
    fn n_elements(&self) -> usize {
        self.len()
    }
}

impl<T> Elements for DeviceMut<'_, T> {
    fn n_elements(&self) -> usize {
        self.len()
    }
}

impl<T> Matrix for DeviceRows<'_, T> {
    fn n_rows(&self) -> usize {
        self.n_rows()
    }

    fn width(&self) -> usize {
        self.width()
    }
}

impl<T> Matrix for DeviceRowsMut<'_, T> {
    fn n_rows(&self) -> usize {
        self.n_rows()
    }

    fn width(&self) -> usize {
        self.width()
    }
}
