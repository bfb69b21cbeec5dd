#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pinkeeper::fuzzing::call("kubo", bytes));
