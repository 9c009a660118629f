//! The messages and services of `consilium.v1`, made from `proto/consilium/v1` by `cargo run` in `proto/generate`.

#[allow(missing_docs, clippy::all)]
#[rustfmt::skip]
mod generated {
    include!("consilium.v1.rs");
}

pub use generated::*;

#[cfg(test)]
mod tests {
    use consilium_core::hash::sha256_hex;

    #[test]
    fn the_code_is_made_from_the_present_definition() {
        let definition = include_bytes!("../../proto/consilium/v1/federation.proto");
        let code = include_str!("consilium.v1.rs");
        let made_from = code.lines().next().unwrap_or_default();
        assert!(made_from.contains(&sha256_hex(definition)), "run `cargo run` in crates/net/proto/generate");
    }
}
