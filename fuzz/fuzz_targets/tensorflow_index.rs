#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloze_fuzz::parsers::run("tensorflow_index", bytes));
