#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    notch_fuzz::properties::resp::holds(data);
    notch_fuzz::reference::agrees(data);
});
