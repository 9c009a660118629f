//! GGUF, the single-file model format of ggml and llama.cpp, version 3: metadata, then tensors, little-endian.
//!
//! Layout after the `ggml` project's `docs/gguf.md`: magic, version, counts, key-value pairs, tensor descriptions
//! (extents innermost first, offset from the start of the data), padding to 32 bytes, data. Tensors are written as
//! f32, f16 or q8_0 (blocks of 32 values: an f16 scale and 32 signed bytes) and read back as f32.

use std::borrow::Cow;
use std::io::{self, Write};

use half::f16;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// Tensors begin at multiples of this.
const ALIGNMENT: usize = 32;
/// Values of a q8_0 block.
const BLOCK: usize = 32;
/// Bytes of a q8_0 block: the scale and one byte a value.
const BLOCK_BYTES: usize = 2 + BLOCK;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    Text(String),
    /// Type 9; all elements of one type.
    Array(Vec<Value>),
    /// Type 10.
    U64(u64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// How the values of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value.
    F16,
    /// 34 bytes for 32 values; the innermost extent must be a multiple of 32.
    Q8_0,
}

impl Encoding {
    fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
        }
    }

    /// Bytes of `values` values.
    pub fn bytes(self, values: usize) -> usize {
        match self {
            Self::F32 => values * 4,
            Self::F16 => values * 2,
            Self::Q8_0 => values / BLOCK * BLOCK_BYTES,
        }
    }
}

/// A tensor to be written, or as read.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTensor<'a> {
    /// Name, `blk.0.attn_q.weight` for example.
    pub name: String,
    /// Extents, outermost first (the file has them the other way round).
    pub shape: Vec<usize>,
    /// How it is stored.
    pub encoding: Encoding,
    /// Row-major values.
    pub data: Cow<'a, [f32]>,
}

/// A whole file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gguf<'a> {
    /// Keys and values in file order.
    pub metadata: Vec<(String, Value)>,
    /// Tensors in file order.
    pub tensors: Vec<GgufTensor<'a>>,
}

/// What is wrong with a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gguf: {0}")]
pub struct GgufError(pub String);

impl Gguf<'_> {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// Writes the file to `out`, one tensor in memory at a time.
    ///
    /// # Errors
    /// Whatever `out` reports, and `InvalidInput` for a tensor whose extents do not fit its values or encoding, or an array of
    /// mixed types.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut header, key);
            header.extend(type_of(value).to_le_bytes());
            put_value(&mut header, value)?;
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            check(tensor)?;
            put_text(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for &extent in tensor.shape.iter().rev() {
                header.extend((extent as u64).to_le_bytes());
            }
            header.extend(tensor.encoding.id().to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset += tensor.encoding.bytes(tensor.data.len()).next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&header)?;
        for tensor in &self.tensors {
            let mut bytes = encode(tensor.encoding, &tensor.data);
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

fn check(tensor: &GgufTensor) -> io::Result<()> {
    let invalid = |reason: String| {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("tensor {}: {reason}", tensor.name)))
    };
    let expected: usize = tensor.shape.iter().product();
    if expected != tensor.data.len() {
        return invalid(format!(
            "shape {:?} needs {expected} values, found {}",
            tensor.shape,
            tensor.data.len()
        ));
    }
    let inner = tensor.shape.last().copied().unwrap_or(1);
    if tensor.encoding == Encoding::Q8_0 && !inner.is_multiple_of(BLOCK) {
        return invalid(format!("rows of {inner} values cannot be cut into q8_0 blocks of {BLOCK}"));
    }
    Ok(())
}

fn put_text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

fn type_of(value: &Value) -> u32 {
    match value {
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::Text(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
    }
}

fn put_value(to: &mut Vec<u8>, value: &Value) -> io::Result<()> {
    match value {
        Value::U32(v) => to.extend(v.to_le_bytes()),
        Value::I32(v) => to.extend(v.to_le_bytes()),
        Value::F32(v) => to.extend(v.to_le_bytes()),
        Value::Bool(v) => to.push(u8::from(*v)),
        Value::Text(v) => put_text(to, v),
        Value::U64(v) => to.extend(v.to_le_bytes()),
        Value::Array(values) => {
            let kind = values.first().map_or(4, type_of);
            if values.iter().any(|v| type_of(v) != kind) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "an array of mixed types"));
            }
            to.extend(kind.to_le_bytes());
            to.extend((values.len() as u64).to_le_bytes());
            values.iter().try_for_each(|v| put_value(to, v))?;
        }
    }
    Ok(())
}

fn encode(encoding: Encoding, values: &[f32]) -> Vec<u8> {
    match encoding {
        Encoding::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Encoding::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Encoding::Q8_0 => {
            let mut bytes = Vec::with_capacity(encoding.bytes(values.len()));
            values.chunks_exact(BLOCK).for_each(|block| encode_block(block, &mut bytes));
            bytes
        }
    }
}

/// ggml's reference quantiser: the largest magnitude becomes 127, halves round away from zero.
fn encode_block(block: &[f32], to: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    to.extend(f16::from_f32(scale).to_le_bytes());
    to.extend(block.iter().map(|v| (v * inverse).round() as i8 as u8));
}

fn decode(encoding: Encoding, bytes: &[u8]) -> Vec<f32> {
    let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
    match encoding {
        Encoding::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        Encoding::F16 => bytes.chunks_exact(2).map(half).collect(),
        Encoding::Q8_0 => bytes
            .chunks_exact(BLOCK_BYTES)
            .flat_map(|block| {
                let scale = half(block);
                block[2..].iter().map(move |&q| scale * f32::from(q as i8))
            })
            .collect(),
    }
}

/// Reads a file; every tensor becomes f32.
///
/// # Errors
/// [`GgufError`] where the file is cut off, of another version, or holds a type that this project does not write.
pub fn read(bytes: &[u8]) -> Result<Gguf<'static>, GgufError> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.take(4)? != MAGIC {
        return Err(GgufError("the file does not begin with GGUF".into()));
    }
    let version = reader.u32()?;
    if version != VERSION {
        return Err(GgufError(format!("version {version} is not supported, only {VERSION}")));
    }
    let (tensor_count, value_count) = (reader.u64()?, reader.u64()?);
    let mut metadata = Vec::new();
    for _ in 0..value_count {
        let key = reader.text()?;
        let kind = reader.u32()?;
        metadata.push((key, reader.value(kind, 0)?));
    }
    let mut described = Vec::new();
    for _ in 0..tensor_count {
        described.push(reader.description()?);
    }
    let start = reader.at.next_multiple_of(ALIGNMENT);
    let tensors = described
        .into_iter()
        .map(|(name, shape, encoding, offset)| {
            let values = shape
                .iter()
                .try_fold(1usize, |product, &extent| product.checked_mul(extent))
                .filter(|&values| values < usize::MAX / 4)
                .ok_or_else(|| GgufError(format!("tensor {name}: shape {shape:?} is too large")))?;
            let first = start.checked_add(offset);
            let content = first
                .and_then(|first| bytes.get(first..first.checked_add(encoding.bytes(values))?))
                .ok_or_else(|| {
                    GgufError(format!("tensor {name}: its data lies beyond the end of the file"))
                })?;
            Ok(GgufTensor { name, shape, encoding, data: Cow::Owned(decode(encoding, content)) })
        })
        .collect::<Result<_, GgufError>>()?;
    Ok(Gguf { metadata, tensors })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], GgufError> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| GgufError(format!("cut off at byte {}", self.bytes.len())))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.array().map(u64::from_le_bytes)
    }

    fn size(&mut self) -> Result<usize, GgufError> {
        let value = self.u64()?;
        usize::try_from(value).map_err(|_| GgufError(format!("a size of {value} is beyond this machine")))
    }

    fn text(&mut self) -> Result<String, GgufError> {
        let length = self.size()?;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| GgufError("a text is not UTF-8".into()))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, GgufError> {
        Ok(match kind {
            4 => Value::U32(self.u32()?),
            5 => Value::I32(self.array().map(i32::from_le_bytes)?),
            6 => Value::F32(self.array().map(f32::from_le_bytes)?),
            7 => Value::Bool(self.take(1)?[0] != 0),
            8 => Value::Text(self.text()?),
            9 if depth == 0 => {
                let kind = self.u32()?;
                let count = self.u64()?;
                Value::Array((0..count).map(|_| self.value(kind, 1)).collect::<Result<_, _>>()?)
            }
            10 => Value::U64(self.u64()?),
            other => return Err(GgufError(format!("metadata of type {other} is not supported"))),
        })
    }

    fn description(&mut self) -> Result<(String, Vec<usize>, Encoding, usize), GgufError> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(GgufError(format!("tensor {name}: {dimensions} dimensions, at most 4 are allowed")));
        }
        let mut shape = (0..dimensions).map(|_| self.size()).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let encoding = match self.u32()? {
            0 => Encoding::F32,
            1 => Encoding::F16,
            8 => Encoding::Q8_0,
            other => return Err(GgufError(format!("tensor {name}: type {other} is not supported"))),
        };
        Ok((name, shape, encoding, self.size()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Gguf<'static> {
        let tensor = |name: &str, shape: &[usize], encoding| {
            let values: usize = shape.iter().product();
            let data = (0..values).map(|i| (i as f32 - 40.0) / 8.0).collect();
            GgufTensor { name: name.into(), shape: shape.into(), encoding, data: Cow::Owned(data) }
        };
        Gguf {
            metadata: vec![
                ("general.architecture".into(), "llama".into()),
                ("n".into(), Value::U32(7)),
                ("eps".into(), Value::F32(1e-5)),
                ("bos".into(), Value::Bool(true)),
                ("types".into(), Value::Array(vec![Value::I32(1), Value::I32(-3)])),
                ("tokens".into(), Value::Array(vec!["a".into(), "Ġb".into()])),
            ],
            tensors: vec![
                tensor("norm", &[3], Encoding::F32),
                tensor("half", &[2, 5], Encoding::F16),
                tensor("blocks", &[2, 64], Encoding::Q8_0),
            ],
        }
    }

    fn bytes(file: &Gguf) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = sample();
        let again = read(&bytes(&file)).unwrap();
        assert_eq!(again.metadata, file.metadata);
        assert_eq!(again.tensors[..2], file.tensors[..2], "these values are exact in f16");
        for (found, expected) in again.tensors[2].data.iter().zip(file.tensors[2].data.iter()) {
            // Half a step of a scale of at most 11 / 127, and the scale's own rounding to f16.
            assert!((found - expected).abs() < 0.06, "{found} {expected}");
        }
        assert_eq!(again.get("n"), Some(&Value::U32(7)));
    }

    #[test]
    fn a_q8_0_block_is_ggmls() {
        let mut block = [0.0f32; BLOCK];
        (block[0], block[1], block[2]) = (127.0, -63.5, 0.4);
        let mut bytes = Vec::new();
        encode_block(&block, &mut bytes);
        assert_eq!(bytes[..5], [0x00, 0x3c, 127, (-64i8) as u8, 0], "scale 1.0; halves away from zero");
        bytes.clear();
        encode_block(&[0.0; BLOCK], &mut bytes);
        assert_eq!(bytes, [0; BLOCK_BYTES]);
    }

    #[test]
    fn extents_are_innermost_first_and_data_is_aligned() {
        let file = bytes(&sample());
        let place = file.windows(4).position(|w| w == b"half").unwrap() + 4;
        assert_eq!(file[place..place + 4], 2u32.to_le_bytes());
        assert_eq!(file[place + 4..place + 12], 5u64.to_le_bytes());
        assert_eq!(file[place + 24..place + 32], 32u64.to_le_bytes(), "after 12 bytes of norm");
        assert_eq!(file.len() % ALIGNMENT, 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let mut file = sample();
        file.tensors[2].shape = vec![64, 2];
        let error = file.write(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("tensor blocks: rows of 2 values"), "{error}");
        let whole = bytes(&sample());
        assert!(read(&whole[..whole.len() - 64]).unwrap_err().to_string().contains("tensor blocks"));
        assert!(read(b"GGML").is_err());
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(place in 0usize..400, value: u8, cut in 0usize..700) {
            let mut file = bytes(&sample());
            if let Some(byte) = file.get_mut(place) {
                *byte = value;
            }
            file.truncate(cut.max(4));
            let _ = read(&file);
        }
    }
}
