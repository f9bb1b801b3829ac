//! `.npy` members: codes as integers, latents as floating-point numbers.

use npyz::{DType, NpyFile, Order, TypeChar};

use crate::readers::{Part, Skip, SkipReason, printable};
use crate::vocabulary::Modality;

/// Digits in a header. They bound every product of its sizes below 2^64, so that no sum of the parser overflows.
const MAX_DIGITS: usize = 18;

/// Brackets that may be open in a header at once.
const MAX_DEPTH: usize = 6;

/// Reads an array as a part of a modality, in row-major order whatever the order of the file.
pub(super) fn read(name: &str, bytes: &[u8], modality: Modality) -> Result<Part, Skip> {
    let broken = |what: &str| Skip::new(SkipReason::BrokenArray, format!("{}: {what}", printable(name, 80)));
    check_header(bytes).map_err(&broken)?;
    let mut data = bytes;
    let file = NpyFile::new(&mut data).map_err(|error| broken(&printable(&error.to_string(), 120)))?;
    let DType::Plain(kind) = file.dtype() else { return Err(broken("a structured array")) };
    let shape: Vec<usize> = file
        .shape()
        .iter()
        .map(|&size| usize::try_from(size))
        .collect::<Result<_, _>>()
        .map_err(|_| broken("its shape"))?;
    let order = file.order();
    let item = kind.size_field();
    let n_values = file.len();
    drop(file);
    if n_values.checked_mul(item) != Some(data.len() as u64) {
        let what = format!("shape {shape:?} of {kind} needs another size than the {} bytes there are", data.len());
        return Err(broken(&what));
    }
    let kind_words = format!("values of type {kind}");
    let part = match (kind.type_char(), item) {
        (TypeChar::Uint | TypeChar::Int, _) => {
            let values = codes(bytes, kind.type_char(), item).map_err(|what| broken(&what))?;
            Part::Codes { modality, values: row_major(values, &shape, order), shape: some_shape(shape) }
        }
        (TypeChar::Float, _) if modality == Modality::Image => {
            let values = floats(bytes, item).map_err(|what| broken(&what))?;
            Part::Latents { values: row_major(values, &shape, order), shape: some_shape(shape) }
        }
        _ => return Err(broken(&kind_words)),
    };
    Ok(part)
}

/// A single value without axes is an array of one.
fn some_shape(shape: Vec<usize>) -> Vec<usize> {
    if shape.is_empty() { vec![1] } else { shape }
}

/// Refuses headers that the parser is not made for: it recurses with brackets, and multiplies sizes without a check.
fn check_header(bytes: &[u8]) -> Result<(), &'static str> {
    if !bytes.starts_with(b"\x93NUMPY") || bytes.len() < 12 {
        return Err("no .npy array");
    }
    let (from, len): (usize, usize) = match bytes[6] {
        1 => (10, usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))),
        _ => (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize),
    };
    let header = from.checked_add(len).and_then(|end| bytes.get(from..end)).ok_or("its header is cut")?;
    let (mut depth, mut digits) = (0usize, 0);
    for &byte in header {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'0'..=b'9' => digits += 1,
            b'a'..=b'w' | b'y' | b'z' | b'A'..=b'W' | b'Y' | b'Z' | b'_' => {}
            b'\'' | b'"' | b':' | b',' | b'<' | b'>' | b'|' | b'=' | b' ' | b'\n' => {}
            _ => return Err("its header does not parse"),
        }
        if depth > MAX_DEPTH || digits > MAX_DIGITS {
            return Err("its header is of no plain array");
        }
    }
    Ok(())
}

/// Reads all values as their own type, one after the other as they are stored.
fn values<T: npyz::Deserialize>(bytes: &[u8]) -> Result<Vec<T>, String> {
    let file = NpyFile::new(bytes).map_err(|error| printable(&error.to_string(), 120))?;
    file.into_vec().map_err(|error| printable(&error.to_string(), 120))
}

fn codes(bytes: &[u8], kind: TypeChar, item: u64) -> Result<Vec<u32>, String> {
    match (kind, item) {
        (TypeChar::Uint, 1) => tokens::<u8>(bytes),
        (TypeChar::Uint, 2) => tokens::<u16>(bytes),
        (TypeChar::Uint, 4) => values::<u32>(bytes),
        (TypeChar::Uint, 8) => tokens::<u64>(bytes),
        (TypeChar::Int, 1) => tokens::<i8>(bytes),
        (TypeChar::Int, 2) => tokens::<i16>(bytes),
        (TypeChar::Int, 4) => tokens::<i32>(bytes),
        (TypeChar::Int, 8) => tokens::<i64>(bytes),
        _ => Err(format!("integers of {item} bytes")),
    }
}

fn tokens<T>(bytes: &[u8]) -> Result<Vec<u32>, String>
where
    T: npyz::Deserialize + Copy + TryInto<u32> + std::fmt::Display,
{
    let token = |value: T| value.try_into().map_err(|_| format!("{value} is no token"));
    values::<T>(bytes)?.into_iter().map(token).collect()
}

fn floats(bytes: &[u8], item: u64) -> Result<Vec<f32>, String> {
    let values: Vec<f32> = match item {
        2 => values::<half::f16>(bytes)?.into_iter().map(f32::from).collect(),
        4 => values::<f32>(bytes)?,
        8 => values::<f64>(bytes)?.into_iter().map(|value| value as f32).collect(),
        _ => return Err(format!("floating-point numbers of {item} bytes")),
    };
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("holds {value}")),
        None => Ok(values),
    }
}

/// Puts values that are stored with the first axis fastest into the order with the last axis fastest.
fn row_major<T: Copy>(values: Vec<T>, shape: &[usize], order: Order) -> Vec<T> {
    if order == Order::C || shape.len() < 2 || values.is_empty() {
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
        assert_eq!(row_major(vec![0, 4, 2, 6, 1, 5, 3, 7], &shape, Order::Fortran), [0, 1, 2, 3, 4, 5, 6, 7]);
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
