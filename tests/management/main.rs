//! The management protocol as controllers see it.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking, ends its own tasks and watches the real clock"
)]

mod controllers;
mod daemon;
mod lines;
mod peer;
