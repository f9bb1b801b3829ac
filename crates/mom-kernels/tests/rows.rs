//! Matrices of rows: columns without a copy, writable halves, and what they refuse.
#![allow(clippy::unwrap_used)]

use mom_kernels::{Rows, RowsMut};

#[test]
fn columns_are_parts_of_every_row() {
    let data: Vec<f32> = (0..12).map(|x| x as f32).collect();
    let rows = Rows::new("x", &data, 4).unwrap();
    let middle = rows.columns(1, 2).unwrap();
    assert_eq!((middle.n_rows(), middle.width(), middle.stride()), (3, 2, 4));
    assert_eq!(middle.row(2), [9.0, 10.0]);
    let last = middle.columns(1, 1).unwrap();
    assert_eq!(last.row(0), [2.0]);
    assert_eq!(last.row(2), [10.0]);
}

#[test]
fn split_columns_are_written_apart() {
    let mut data = [0.0f64; 6];
    let (mut left, mut right) = RowsMut::new("x", &mut data, 3).unwrap().split_columns(1).unwrap();
    assert_eq!((left.width(), right.width(), right.n_rows()), (1, 2, 2));
    left.row_mut(1)[0] = 4.0;
    right.row_mut(0).copy_from_slice(&[2.0, 3.0]);
    right.row_mut(1)[1] = 6.0;
    assert_eq!(data, [0.0, 2.0, 3.0, 4.0, 0.0, 6.0]);
}

#[test]
fn no_rows_have_columns_too() {
    let rows = Rows::<f32>::new("x", &[], 4).unwrap();
    assert_eq!(rows.columns(2, 2).unwrap().n_rows(), 0);
    let mut none = [0.0f32; 0];
    let (left, right) = RowsMut::new("x", &mut none, 4).unwrap().split_columns(4).unwrap();
    assert_eq!((left.width(), right.width()), (4, 0));
}

#[test]
fn what_rows_refuse_is_named() {
    let data = [0.0f32; 7];
    let message = |width| Rows::new("x", &data, width).unwrap_err().to_string();
    assert_eq!(message(2), "rows: x has 7 elements, expected 6");
    assert_eq!(message(0), "width of rows: x = 0 is outside 1..=4294967295");
    let rows = Rows::new("x", &data, 7).unwrap();
    assert_eq!(rows.columns(5, 3).unwrap_err().to_string(), "columns: end = 8 is outside 0..=7");
    assert!(rows.columns(usize::MAX, 2).is_err());
    let mut data = data;
    assert!(RowsMut::new("x", &mut data, 3).is_err());
    assert!(RowsMut::new("x", &mut data, 7).unwrap().split_columns(8).is_err());
}

#[test]
#[should_panic(expected = "assertion failed")]
fn a_row_past_the_end_panics_and_does_not_reach_memory() {
    let mut data = [0.0f32; 6];
    RowsMut::new("x", &mut data, 3).unwrap().row_mut(2)[0] = 1.0;
}
