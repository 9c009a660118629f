//! An adapter as a numpy `.npz` archive with entries `0.npy .. N-1.npy`, the payload that FEDn's `numpyhelper`
//! exchanges. Names travel separately (in the schema), so order is meaning here.
//!
//! Format: NEP 1, npy version 1.0, little-endian float32 in C order; entries stored, not compressed, with a fixed
//! timestamp, so the same adapter gives the same bytes.

use std::io::{Cursor, Read, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::adapter::{Adapter, AdapterError, Schema, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";

fn broken(reason: impl Into<String>) -> AdapterError {
    AdapterError::Format { format: "npz", reason: reason.into() }
}

/// The archive's bytes.
pub fn encode(adapter: &Adapter) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    let wrote = "writing to memory cannot fail";
    for (i, tensor) in adapter.tensors().iter().enumerate() {
        zip.start_file(format!("{i}.npy"), options).expect(wrote);
        zip.write_all(&npy_header(&tensor.shape)).expect(wrote);
        let bytes: Vec<u8> = tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        zip.write_all(&bytes).expect(wrote);
    }
    zip.finish().expect(wrote).into_inner()
}

fn npy_header(shape: &[usize]) -> Vec<u8> {
    let mut extents: String = shape.iter().map(|n| format!("{n}, ")).collect();
    if shape.len() > 1 {
        extents.truncate(extents.len() - 2);
    } else if shape.len() == 1 {
        extents.truncate(extents.len() - 1);
    }
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({extents}), }}");
    // Magic, version and length take 10 bytes; numpy pads the whole to a multiple of 64 and ends with a newline.
    let unpadded = MAGIC.len() + 4 + text.len() + 1;
    text.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    let mut header = MAGIC.to_vec();
    header.extend([1, 0]);
    header.extend((text.len() as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header
}

/// Memory that is set aside for an entry before its first byte is there, bytes.
const LARGEST_RESERVED: usize = 16 << 20;

/// Reads an archive whose entries must have exactly the shapes of `schema`, in order. No entry is inflated beyond
/// the size that the schema allows.
///
/// # Errors
/// [`AdapterError::Format`] with the entry's name, or a shape, length or finiteness error with the tensor's name.
pub fn decode(bytes: &[u8], schema: &Schema) -> Result<Adapter, AdapterError> {
    let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(|e| broken(e.to_string()))?;
    if zip.len() != schema.len() {
        return Err(broken(format!("expected {} entries, found {}", schema.len(), zip.len())));
    }
    let mut tensors = Vec::with_capacity(schema.len());
    for (i, (name, shape)) in schema.iter().enumerate() {
        let entry_name = format!("{i}.npy");
        let entry = zip.by_name(&entry_name).map_err(|e| broken(format!("entry {entry_name}: {e}")))?;
        let data_bytes = shape.iter().try_fold(4usize, |bytes, &extent| bytes.checked_mul(extent));
        let data_bytes = data_bytes.ok_or_else(|| broken(format!("the shape of {name} overflows")))?;
        // A header of version 1.0 is at most 65,545 bytes.
        let limit = (data_bytes as u64).saturating_add(65_545);
        // What the schema says may be more than there is: large entries get their memory as they come.
        let mut content = Vec::with_capacity(data_bytes.min(LARGEST_RESERVED) + 128);
        entry
            .take(limit.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(|e| broken(format!("entry {entry_name}: {e}")))?;
        if content.len() as u64 > limit {
            return Err(broken(format!(
                "entry {entry_name} is larger than the {limit} bytes its shape allows"
            )));
        }
        let (found, data) = parse_npy(&content).map_err(|e| broken(format!("entry {entry_name}: {e}")))?;
        if found != *shape {
            return Err(AdapterError::Shape { name: name.clone(), expected: shape.clone(), found });
        }
        tensors.push(Tensor { name: name.clone(), shape: found, data });
    }
    Adapter::new(tensors)
}

fn parse_npy(content: &[u8]) -> Result<(Vec<usize>, Vec<f32>), String> {
    let rest = content.strip_prefix(MAGIC).ok_or("not an npy file")?;
    let (version, rest) = rest.split_at_checked(2).ok_or("cut off in the header")?;
    if version != [1, 0] {
        return Err(format!("npy version {}.{} is not supported, only 1.0", version[0], version[1]));
    }
    let (length, rest) = rest.split_at_checked(2).ok_or("cut off in the header")?;
    let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
    let (header, data) = rest.split_at_checked(length).ok_or("cut off in the header")?;
    let header = std::str::from_utf8(header).map_err(|_| "header is not text")?;
    let field = |key: &str| {
        header
            .split_once(&format!("'{key}':"))
            .map(|(_, value)| value.trim_start())
            .ok_or(format!("header has no '{key}'"))
    };
    let descr = field("descr")?;
    if !descr.starts_with("'<f4'") {
        return Err(format!("dtype must be '<f4' (little-endian float32), header says {descr:.12}"));
    }
    if !field("fortran_order")?.starts_with("False") {
        return Err("arrays in Fortran order are not supported".into());
    }
    let shape = field("shape")?
        .strip_prefix('(')
        .and_then(|s| s.split_once(')'))
        .ok_or("header's shape is not a tuple")?
        .0
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(|s| s.parse::<usize>().map_err(|_| format!("'{s}' is not an extent")))
        .collect::<Result<Vec<usize>, String>>()?;
    let expected = shape.iter().try_fold(4usize, |a, &n| a.checked_mul(n)).ok_or("shape overflows")?;
    if data.len() != expected {
        return Err(format!("shape {shape:?} needs {expected} bytes of data, found {}", data.len()));
    }
    let values = data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    Ok((shape, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::tests::tensor;
    use proptest::prelude::*;

    fn sample() -> Adapter {
        Adapter::new(vec![
            tensor("a", &[2, 3], &[1.0, -2.0, 3.5, 0.0, 1e-30, 7.0]),
            tensor("b", &[4], &[0.5; 4]),
        ])
        .unwrap()
    }

    #[test]
    fn round_trip_is_exact_and_bytes_repeat() {
        let adapter = sample();
        let bytes = encode(&adapter);
        assert_eq!(decode(&bytes, &adapter.schema()).unwrap(), adapter);
        assert_eq!(bytes, encode(&adapter));
    }

    #[test]
    fn the_header_is_numpys_own() {
        // What numpy 2.4 writes for np.zeros((2, 3), '<f4').
        let expected = "\u{1}\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        let header = npy_header(&[2, 3]);
        assert_eq!(header.len(), 128);
        assert_eq!(&header[6..6 + expected.len()], expected.as_bytes());
        assert_eq!(header[127], b'\n');
        assert!(String::from_utf8_lossy(&npy_header(&[4])).contains("'shape': (4,), }"));
    }

    #[test]
    fn hostile_archives_are_refused_with_a_reason() {
        let adapter = sample();
        let schema = adapter.schema();
        let bytes = encode(&adapter);
        let reason = |bytes: &[u8], schema: &Schema| decode(bytes, schema).unwrap_err().to_string();
        assert!(reason(b"PK nonsense", &schema).contains("npz"));
        assert!(reason(&bytes[..bytes.len() / 2], &schema).contains("npz"));
        assert!(reason(&bytes, &schema[..1].to_vec()).contains("expected 1 entries, found 2"));
        let mut swapped = schema.clone();
        swapped[0].1 = vec![3, 2];
        assert!(reason(&bytes, &swapped).contains("expected shape [3, 2], found [2, 3]"));
        let small = vec![("a".to_string(), vec![1]), ("b".to_string(), vec![4])];
        assert!(reason(&bytes, &small).contains("expected shape [1]"));
    }

    #[test]
    fn an_entry_is_never_inflated_beyond_its_shape() {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("0.npy", SimpleFileOptions::default().compression_method(CompressionMethod::Deflated))
            .unwrap();
        zip.write_all(&vec![0u8; 10_000_000]).unwrap();
        let bomb = zip.finish().unwrap().into_inner();
        assert!(bomb.len() < 20_000, "the bomb is small: {}", bomb.len());
        let error = decode(&bomb, &vec![("a".into(), vec![2])]).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes, &sample().schema());
            let _ = parse_npy(&bytes);
        }
    }
}
