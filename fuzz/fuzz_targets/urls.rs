#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| smartvpn_fuzz::urls(data));
