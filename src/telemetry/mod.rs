//! What is measured: the quality of a link.

pub mod quality;
