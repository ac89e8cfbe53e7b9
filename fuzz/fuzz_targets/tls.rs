#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| notch_fuzz::properties::tls::holds(data));
