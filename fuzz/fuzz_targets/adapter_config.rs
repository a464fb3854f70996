#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cloze_fuzz::parsers::run("adapter_config", bytes));
