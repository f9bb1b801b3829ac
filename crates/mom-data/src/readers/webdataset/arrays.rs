//! `.npy` members: codes as integers, latents as floating-point numbers.

use super::npy::{self, Head};
use crate::readers::{Part, Skip, SkipReason, printable};
use crate::vocabulary::Modality;

/// Reads an array as a part of a modality, in row-major order whatever the order of the file.
pub(super) fn read(name: &str, bytes: &[u8], modality: Modality) -> Result<Part, Skip> {
    let broken = |what: &str| Skip::new(SkipReason::BrokenArray, format!("{}: {what}", printable(name, 80)));
    let (head, data) = npy::parse(bytes).map_err(|what| broken(&what))?;
    let Head { kind, item, ref shape, .. } = head;
    let n_values = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    if n_values.and_then(|n| n.checked_mul(item)) != Some(data.len()) {
        let what =
            format!("shape {shape:?} of {kind}{item} needs another size than the {} bytes there are", data.len());
        return Err(broken(&what));
    }
    match kind {
        'u' | 'i' => {
            let values = codes(data, &head).map_err(|what| broken(&what))?;
            let values = row_major(values, shape, head.fortran_order);
            Ok(Part::Codes { modality, values, shape: some_shape(head.shape) })
        }
        'f' if modality == Modality::Image => {
            let values = floats(data, &head).map_err(|what| broken(&what))?;
            let values = row_major(values, shape, head.fortran_order);
            Ok(Part::Latents { values, shape: some_shape(head.shape) })
        }
        _ => Err(broken(&format!("values of type {kind}{item}"))),
    }
}

/// A single value without axes is an array of one.
fn some_shape(shape: Vec<usize>) -> Vec<usize> {
    if shape.is_empty() { vec![1] } else { shape }
}

/// Values of a type of `N` bytes, one after the other as they are stored.
fn values<const N: usize, T>(data: &[u8], head: &Head, from: impl Fn([u8; N]) -> T) -> Vec<T> {
    let value = |bytes: &[u8; N]| {
        let mut bytes = *bytes;
        if head.big_endian {
            bytes.reverse();
        }
        from(bytes)
    };
    data.as_chunks::<N>().0.iter().map(value).collect()
}

fn codes(data: &[u8], head: &Head) -> Result<Vec<u32>, String> {
    let integers: Vec<i128> = match (head.kind, head.item) {
        ('u', 1) => values(data, head, |bytes| u8::from_le_bytes(bytes).into()),
        ('u', 2) => values(data, head, |bytes| u16::from_le_bytes(bytes).into()),
        ('u', 4) => values(data, head, |bytes| u32::from_le_bytes(bytes).into()),
        ('u', 8) => values(data, head, |bytes| u64::from_le_bytes(bytes).into()),
        ('i', 1) => values(data, head, |bytes| i8::from_le_bytes(bytes).into()),
        ('i', 2) => values(data, head, |bytes| i16::from_le_bytes(bytes).into()),
        ('i', 4) => values(data, head, |bytes| i32::from_le_bytes(bytes).into()),
        ('i', 8) => values(data, head, |bytes| i64::from_le_bytes(bytes).into()),
        (_, item) => return Err(format!("integers of {item} bytes")),
    };
    integers.into_iter().map(|value| u32::try_from(value).map_err(|_| format!("{value} is no token"))).collect()
}

fn floats(data: &[u8], head: &Head) -> Result<Vec<f32>, String> {
    let values: Vec<f32> = match head.item {
        2 => values(data, head, |bytes| half::f16::from_le_bytes(bytes).to_f32()),
        4 => values(data, head, f32::from_le_bytes),
        8 => values(data, head, |bytes| f64::from_le_bytes(bytes) as f32),
        item => return Err(format!("floating-point numbers of {item} bytes")),
    };
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("holds {value}")),
        None => Ok(values),
    }
}

/// Puts values that are stored with the first axis fastest into the order with the last axis fastest.
fn row_major<T: Copy>(values: Vec<T>, shape: &[usize], fortran_order: bool) -> Vec<T> {
    if !fortran_order || shape.len() < 2 || values.is_empty() {
        return values;
    }
    let strides: Vec<usize> = shape
        .iter()
        .scan(1, |next, &size| {
            let stride = *next;
            *next *= size;
            Some(stride)
        })
        .collect();
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    let mut out = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        out.push(values[at]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn reason(bytes: &[u8], modality: Modality) -> String {
        let skip = read("x.npy", bytes, modality).unwrap_err();
        assert_eq!(skip.reason, SkipReason::BrokenArray);
        skip.detail
    }

    #[test]
    fn fortran_order_becomes_row_major() {
        // [[1, 2, 3], [4, 5, 6]]
        let bytes = npy("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }\n", &[1, 4, 2, 5, 3, 6]);
        let part = read("x.npy", &bytes, Modality::Image).unwrap();
        let (modality, shape) = (Modality::Image, vec![2, 3]);
        assert_eq!(part, Part::Codes { modality, shape, values: vec![1, 2, 3, 4, 5, 6] });
        let shape = [2, 2, 2];
        assert_eq!(row_major(vec![0, 4, 2, 6, 1, 5, 3, 7], &shape, true), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn integers_of_all_sizes_are_codes_and_negative_ones_are_not() {
        let header = |kind: &str| format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (1,), }}");
        for kind in ["|u1", "<u2", ">u2", "<u4", "<u8", "|i1", "<i2", "<i4", ">i8"] {
            let size = kind[2..].parse().unwrap();
            let mut data = vec![0u8; size];
            let last = if kind.starts_with('>') { size - 1 } else { 0 };
            data[last] = 77;
            let part = read("x.npy", &npy(&header(kind), &data), Modality::Text).unwrap();
            assert_eq!(part, Part::Codes { modality: Modality::Text, shape: vec![1], values: vec![77] }, "{kind}");
        }
        assert!(reason(&npy(&header("<i2"), &[0xff, 0xff]), Modality::Text).contains("-1 is no token"));
        assert!(reason(&npy(&header("<u8"), &[0, 0, 0, 0, 1, 0, 0, 0]), Modality::Text).contains("no token"));
    }

    #[test]
    fn floats_are_latents_of_images_alone() {
        let header = |kind: &str| format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (1,), }}");
        let half = npy(&header("<f2"), &[0x00, 0x3e]);
        assert_eq!(read("x.npy", &half, Modality::Image).unwrap(), Part::Latents { shape: vec![1], values: vec![1.5] });
        assert!(reason(&half, Modality::Speech).contains("f2"));
        assert!(reason(&npy(&header("<f4"), &f32::NAN.to_le_bytes()), Modality::Image).contains("NaN"));
        assert!(reason(&npy(&header("<f8"), &1e300f64.to_le_bytes()), Modality::Image).contains("inf"));
    }

    #[test]
    fn headers_made_to_harm_are_refused() {
        let deep =
            format!("{{'descr': '<u2', 'shape': {}{}, 'fortran_order': False}}", "(".repeat(9000), ")".repeat(9000));
        reason(&npy(&deep, &[]), Modality::Image);
        reason(
            &npy("{'descr': '<u2', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", &[]),
            Modality::Image,
        );
        reason(&npy("{'descr': '<u2', 'fortran_order': False, 'shape': (999999999999,), }", &[1, 2]), Modality::Image);
        reason(&npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", &[1; 8]), Modality::Image);
        reason(&npy("{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (1,), }", &[1; 2]), Modality::Image);
        reason(b"\x93NUMPY\x02\x00\xff\xff\xff\xff", Modality::Image);
        reason(b"", Modality::Image);
    }
}
