//! How large an adapter may be, on both sides of the wire.

use consilium_core::adapter::Schema;

/// Largest adapter that is believed, bytes of its values.
const LARGEST_ADAPTER: u64 = 4 << 30;

/// Bytes of an adapter's values in f32.
///
/// # Errors
/// A sentence that names the tensor at which it is too large.
pub(crate) fn value_bytes(schema: &Schema) -> Result<u64, String> {
    let mut bytes = 0u64;
    for (name, shape) in schema {
        let size = shape.iter().try_fold(4u64, |size, &extent| size.checked_mul(extent as u64));
        bytes = size.and_then(|size| bytes.checked_add(size)).unwrap_or(u64::MAX);
        if bytes > LARGEST_ADAPTER {
            let name = crate::words::shortened(name);
            return Err(format!("the adapter is larger than {LARGEST_ADAPTER} bytes at tensor {name}"));
        }
    }
    Ok(bytes)
}

/// Most bytes that an archive of an adapter can honestly have: its values, headers, and what deflate adds in the worst
/// case.
pub(crate) fn archive_limit(schema: &Schema) -> u64 {
    let values = value_bytes(schema).unwrap_or(LARGEST_ADAPTER);
    values + values / 1000 + schema.len() as u64 * 1024 + 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_adapter_has_are_refused_by_name() {
        let schema = |shape: &[usize]| vec![("a".to_owned(), vec![2]), ("b".to_owned(), shape.to_vec())];
        assert_eq!(value_bytes(&schema(&[3, 4])), Ok(56));
        for shape in [&[usize::MAX][..], &[1 << 16, 1 << 16, 1 << 16, 1 << 16], &[1 << 31]] {
            let error = value_bytes(&schema(shape)).unwrap_err();
            assert!(error.contains("tensor b"), "{error}");
        }
    }
}
