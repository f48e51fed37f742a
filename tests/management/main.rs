//! The management protocol as controllers see it.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod controllers;
mod daemon;
mod lines;
mod peer;
