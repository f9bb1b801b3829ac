//! In which order a rank launches what it exchanges with others on a device.
//!
//! Two communicators of NCCL's at work at once may wait for each other for ever if ranks launch in different orders. That would show as a run
//! that stands still, now and then: so the order is compared after every step.

use std::sync::atomic::{AtomicU64, Ordering};

/// A rank's order: one number, which says all of it.
#[derive(Debug, Default)]
pub(crate) struct Order {
    n_communicators: AtomicU64,
    so_far: AtomicU64,
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "on the CPU the hub has one order"))]
impl Order {
    /// The number of a new communicator: all ranks make theirs in one order.
    pub fn communicator(&self) -> u64 {
        self.n_communicators.fetch_add(1, Ordering::Relaxed)
    }

    /// Something was launched in a communicator.
    pub fn launched(&self, communicator: u64) {
        let next = |so_far: u64| {
            // SplitMix64's steps (Steele, Lea and Flood 2014).
            let x = so_far.wrapping_add(communicator).wrapping_add(0x9e37_79b9_7f4a_7c15);
            let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            Some(x ^ x >> 31)
        };
        // Never an error: `next` always gives a number.
        let _ = self.so_far.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// Equal on ranks that have launched as often and in one order. Always the same with one communicator, which has one order by itself, and
    /// from which a captured step launches without a word.
    pub fn so_far(&self) -> u64 {
        if self.n_communicators.load(Ordering::Relaxed) > 1 { self.so_far.load(Ordering::Relaxed) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(communicators: &[u64]) -> u64 {
        let order = Order::default();
        assert_eq!([order.communicator(), order.communicator()], [0, 1]);
        communicators.iter().for_each(|&communicator| order.launched(communicator));
        order.so_far()
    }

    #[test]
    fn orders_and_numbers_of_launches_are_told_apart() {
        assert_eq!(of(&[0, 1, 1, 0]), of(&[0, 1, 1, 0]));
        let others: [&[u64]; 6] = [&[], &[0], &[1, 0, 1, 0], &[0, 1, 0, 1], &[0, 1, 1], &[0, 1, 1, 0, 0]];
        for other in others {
            assert_ne!(of(&[0, 1, 1, 0]), of(other), "{other:?}");
        }
        let alone = Order::default();
        let number = alone.communicator();
        alone.launched(number);
        assert_eq!(alone.so_far(), Order::default().so_far());
    }
}
