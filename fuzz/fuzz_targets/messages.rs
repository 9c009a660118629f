//! What arrives over the wire before anybody is known: protobuf messages, a round's manifest, an operator's order.
#![no_main]

use consilium_net::manifest;
use consilium_net::proto;
use consilium_net::server::http::{ModelUpload, Order};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    let _ = proto::SubmitRequest::decode(bytes);
    let _ = proto::UploadChunk::decode(bytes);
    let _ = proto::AttendResponse::decode(bytes);
    let _ = proto::NextTaskResponse::decode(bytes);
    let (key, rest) = bytes.split_at(bytes.len().min(32));
    let (signature, manifest) = rest.split_at(rest.len().min(64));
    assert!(manifest::verify(key, manifest, signature).is_err(), "nobody signs by chance");
    if let Ok(order) = serde_json::from_slice::<Order>(bytes)
        && order.spec.check().is_ok()
    {
        assert!(order.spec.archive_limit() > 0);
    }
    let _ = serde_json::from_slice::<ModelUpload>(bytes);
});
