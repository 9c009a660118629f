//! Archives as strangers send them: whatever the bytes, an adapter of the schema or an error, and no more memory than the schema allows.
#![no_main]

use consilium_core::npz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let schema = vec![("a".to_owned(), vec![2, 3]), ("b".to_owned(), vec![4])];
    if let Ok(adapter) = npz::decode(bytes, &schema) {
        assert_eq!(adapter.schema(), schema);
        assert!(adapter.flat().all(f32::is_finite));
        assert_eq!(npz::decode(&npz::encode(&adapter), &schema).as_ref(), Ok(&adapter));
    }
});
