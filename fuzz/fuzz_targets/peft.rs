//! An adapter's two files as somebody hands them over: safetensors, and the configuration beside them.
#![no_main]

use consilium_core::peft;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(adapter) = peft::decode_weights(bytes) {
        let again = peft::decode_weights(&peft::encode_weights(&adapter));
        assert_eq!(again.map(|adapter| adapter.sha256()), Ok(adapter.sha256()));
    }
    let _ = std::str::from_utf8(bytes).map(peft::decode_config);
});
