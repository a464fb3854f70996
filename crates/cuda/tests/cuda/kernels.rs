//! The kernels as text: what they include, and whether NVRTC compiles them.

use std::path::{Path, PathBuf};

use cloze_cuda::compile::{Compiler, HEADERS, KERNELS, is_present};
use cloze_cuda::driver::Variant;
use cloze_tensor::Dtype;

#[test]
fn every_file_is_in_the_program_and_includes_our_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let known: Vec<&str> = KERNELS.iter().chain(HEADERS).map(|(name, _)| *name).collect();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name.as_str()), "{name} is not in compile::KERNELS or HEADERS");
    }
    for (name, text) in KERNELS.iter().chain(HEADERS) {
        for line in text.lines().filter(|l| l.trim_start().starts_with("#include")) {
            let included = line.split('"').nth(1).unwrap_or_else(|| panic!("{name}: {line}"));
            assert!(known.contains(&included) || included == "emulate.h", "{name} includes {included}");
        }
    }
    // Only the emulation's branch may name emulate.h.
    assert_eq!(KERNELS.iter().chain(HEADERS).filter(|(_, t)| t.contains("emulate.h\"")).count(), 1);
}

/// All kernels for Ampere and Hopper, in every form that the backend asks for.
#[test]
fn nvrtc_compiles_every_kernel() {
    if !is_present() {
        println!("skipped: no NVRTC");
        return;
    }
    for architecture in ["sm_80", "sm_90a"] {
        let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cubins");
        let compiler = Compiler::with_cache(architecture, Some(cache)).unwrap();
        for (name, _) in KERNELS {
            let file = name.strip_suffix(".cu").unwrap();
            let variants = match file {
                "attention" => [16, 32, 64, 128]
                    .into_iter()
                    .flat_map(|head_dim| [false, true].map(|biased| Variant { dtype: Dtype::Bf16, head_dim, biased }))
                    .collect(),
                "attention_plain" => [Dtype::F32, Dtype::Bf16]
                    .into_iter()
                    .flat_map(|dtype| [false, true].map(|biased| Variant { biased, ..dtype.into() }))
                    .collect(),
                _ => [Dtype::F32, Dtype::Bf16].map(Variant::from).to_vec(),
            };
            for variant in variants {
                let cubin = compiler.cubin(file, variant).unwrap_or_else(|e| panic!("{variant:?}: {e}"));
                assert!(cubin.starts_with(b"\x7fELF"), "{file} {variant:?} for {architecture}: no cubin");
            }
        }
    }
}

#[test]
fn cubins_are_kept_and_damaged_ones_made_again() {
    if !is_present() {
        println!("skipped: no NVRTC");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let compiler = Compiler::with_cache("sm_80", Some(folder.path().to_owned())).unwrap();
    let files = || std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let first = compiler.cubin("pool", Dtype::F32.into()).unwrap();
    assert_eq!(files().len(), 1);
    std::fs::write(&files()[0], "no cubin").unwrap();
    assert_eq!(compiler.cubin("pool", Dtype::F32.into()).unwrap(), first);
    assert_eq!(std::fs::read(&files()[0]).unwrap(), first);
    compiler.cubin("pool", Dtype::Bf16.into()).unwrap();
    assert_eq!(files().len(), 2, "another form is another file");
}
