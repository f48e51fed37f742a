//! What is fuzzed, and what must hold whatever the bytes are. Each target is a function that panics where
//! something does not.
//!
//! `fuzz_targets/` gives them to libFuzzer; `tests/fuzz_corpus.rs` of the crate includes this file and runs every
//! target over its corpus with the stable compiler.

mod configuration;
mod http;
mod input;
mod internet;
mod packets;
mod sessions;
mod websocket;
mod wire;

pub use configuration::{client_config, management_lines, saved_roster, server_config};
pub use http::{http_answer, http_request, netlink, proxy_header, urls};
pub use packets::{bundles, coalesce, packets};
pub use sessions::sessions;
pub use websocket::websocket;
pub use wire::{claims, client_hello, frames, server_hello};

/// What a target does with its input.
pub type Target = fn(&[u8]);

/// The targets by the names of their corpora.
pub const TARGETS: [(&str, Target); 18] = [
    ("bundles", bundles),
    ("claims", claims),
    ("client_config", client_config),
    ("client_hello", client_hello),
    ("coalesce", coalesce),
    ("frames", frames),
    ("http_answer", http_answer),
    ("http_request", http_request),
    ("management_lines", management_lines),
    ("netlink", netlink),
    ("packets", packets),
    ("proxy_header", proxy_header),
    ("saved_roster", saved_roster),
    ("server_config", server_config),
    ("server_hello", server_hello),
    ("sessions", sessions),
    ("urls", urls),
    ("websocket", websocket),
];
