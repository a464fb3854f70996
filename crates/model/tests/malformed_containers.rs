//! Weight files of every kind that are not what they should be: an error that names the file and the cause; never a panic, never memory for what a
//! header only claims.

use std::path::{Path, PathBuf};

use cloze_model::files::container::Container;
use cloze_model::files::sentence::SentenceModel;
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/containers").join(name)
}

/// The error of opening `bytes` under `name` in a folder that `others` stand in, too; it must name the file.
fn error(name: &str, bytes: &[u8], others: &[(&str, &[u8])], named: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (other, bytes) in others {
        std::fs::write(folder.path().join(other), bytes).unwrap();
    }
    std::fs::write(folder.path().join(name), bytes).unwrap();
    let error = Container::open(folder.path()).err().map_or_else(|| "it opened".to_owned(), |e| e.to_string());
    assert!(error.contains(named), "{named} is not named in: {error}");
    error
}

/// Each case is refused with words of its own.
fn all<'a>(cases: impl IntoIterator<Item = (&'a str, String)>, least: usize) {
    let mut count = 0;
    for (said, error) in cases {
        assert!(error.contains(said), "\"{said}\" is not said in: {error}");
        count += 1;
    }
    assert!(count >= least, "{count} cases");
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[test]
fn safetensors_files() {
    let open = |bytes: &[u8]| error("model.safetensors", bytes, &[], "model.safetensors");
    let tensor = |rest: &str| open(&safetensors(&format!("{{\"a\": {{{rest}}}}}"), 16));
    let raw = |len: u64, text: &[u8]| open(&[&len.to_le_bytes()[..], text].concat());
    let f32 = "\"dtype\": \"F32\"";
    let sound = std::fs::read(fixture("model.safetensors")).unwrap();
    let cases = [
        ("too small", open(b"")),
        ("too small", open(b"1234567")),
        ("invalid JSON", raw(0, b"")),
        ("header length", raw(1000, b"{}")),
        ("too large", raw(u64::MAX, b"{}")),
        ("too large", raw(100_000_001, b"{}")),
        ("UTF-8", raw(4, b"\xff\xfe{}")),
        ("invalid JSON", open(&safetensors("{", 0))),
        ("invalid JSON", open(&safetensors("[1]", 0))),
        ("invalid JSON", open(&safetensors("null", 0))),
        ("invalid JSON", open(&safetensors(&"[".repeat(5000), 0))),
        ("invalid JSON", open(&safetensors("{\"a\": 3}", 0))),
        ("invalid JSON", open(&safetensors("{\"__metadata__\": {\"a\": 1}}", 0))),
        ("dtype", tensor("\"shape\": [4], \"data_offsets\": [0, 16]")),
        ("F33", tensor("\"dtype\": \"F33\", \"shape\": [4], \"data_offsets\": [0, 16]")),
        ("shape", tensor(&format!("{f32}, \"data_offsets\": [0, 16]"))),
        ("-4", tensor(&format!("{f32}, \"shape\": [-4], \"data_offsets\": [0, 16]"))),
        ("4.5", tensor(&format!("{f32}, \"shape\": [4.5], \"data_offsets\": [0, 16]"))),
        ("string", tensor(&format!("{f32}, \"shape\": \"4\", \"data_offsets\": [0, 16]"))),
        ("overflow", tensor(&format!("{f32}, \"shape\": [4294967296, 4294967296], \"data_offsets\": [0, 16]"))),
        ("data_offsets", tensor(&format!("{f32}, \"shape\": [4]"))),
        ("invalid", tensor(&format!("{f32}, \"shape\": [4], \"data_offsets\": [16, 0]"))),
        ("invalid", tensor(&format!("{f32}, \"shape\": [4], \"data_offsets\": [4, 20]"))),
        ("invalid", tensor(&format!("{f32}, \"shape\": [5], \"data_offsets\": [0, 16]"))),
        ("invalid JSON", tensor(&format!("{f32}, \"shape\": [4], \"data_offsets\": [0, 16, 32]"))),
        ("incomplete", tensor(&format!("{f32}, \"shape\": [3], \"data_offsets\": [0, 12]"))),
        ("incomplete", tensor(&format!("{f32}, \"shape\": [400], \"data_offsets\": [0, 1600]"))),
        (
            "invalid offset",
            open(&safetensors(
                "{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}, \"b\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [4, 12]}}",
                16,
            )),
        ),
        (
            "invalid offset",
            open(&safetensors(
                "{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}, \"b\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [8, 16]}}",
                16,
            )),
        ),
        ("incomplete", open(&sound[..sound.len() - 1])),
        ("incomplete", open(&[&sound[..], &[0]].concat())),
        ("sound", open(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")),
        ("sound", open(b"<!doctype html><html><body>Not Found</body></html>")),
        ("sound", open(b"PK\x03\x04 a zip archive under the wrong name")),
    ];
    all(cases, 30);
}

#[test]
fn shard_indices() {
    let shard = std::fs::read(fixture("sharded/model-00001-of-00002.safetensors")).unwrap();
    let open = |text: &[u8]| error("model.safetensors.index.json", text, &[("one.safetensors", &shard), ("b.txt", b"x")], "");
    let map = |value: Value| open(json!({ "weight_map": value }).to_string().as_bytes());
    let to = |target: &str| map(json!({ "a": target }));
    let sound: Value = serde_json::from_slice(&std::fs::read(fixture("sharded/model.safetensors.index.json")).unwrap()).unwrap();
    let held = sound["weight_map"].as_object().unwrap().iter().find(|(_, f)| f.as_str().unwrap().contains("00002-of")).unwrap().0.clone();
    let index = "model.safetensors.index.json";
    let mut cases = vec![
        (index, open(b"")),
        (index, open(b"{")),
        (index, open(b"{} x")),
        (index, open(b"\xff\xfe{}")),
        (index, open(b"\xef\xbb\xbf{}")),
        (index, open("[".repeat(5000).as_bytes())),
        (index, open(b"version https://git-lfs.github.com/spec/v1\n")),
        ("weight_map", open(b"null")),
        ("weight_map", open(b"3")),
        ("weight_map", open(b"[]")),
        ("weight_map", open(b"\"x\"")),
        ("weight_map", open(b"{}")),
        ("weight_map", open(b"{\"weightmap\": {}}")),
        ("weight_map", map(Value::Null)),
        ("weight_map", map(json!([]))),
        ("weight_map", map(json!(3))),
        ("weight_map", map(json!("x"))),
        ("empty", map(json!({}))),
        ("null", map(json!({"a": null}))),
        ("3", map(json!({"a": 3}))),
        ("[\"x\"]", map(json!({"a": ["x"]}))),
        ("{}", map(json!({"a": {}}))),
        ("missing.safetensors", to("missing.safetensors")),
        ("b.txt", to("b.txt")),
        ("one.safetensors", to("one.safetensors")),
        (held.as_str(), map(json!({&held: "one.safetensors"}))),
        ("", to(&format!("{}.safetensors", "x".repeat(5000)))),
    ];
    for target in ["", ".", "..", "../one.safetensors", "/etc/passwd", "a/../../b", "C:\\x", "a\\b", "a\0b", "./one.safetensors"] {
        let error = to(target);
        assert!(error.contains("outside of the folder") && error.contains(index), "{target:?}: {error}");
        cases.push((index, error));
    }
    for (i, (said, error)) in cases.iter().enumerate() {
        assert!(error != "it opened", "case {i}, {said}");
    }
    all(cases, 30);
}

/// A checkpoint of `torch.save` with a part replaced.
fn zip_with(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(fixture("zip/pytorch_model.bin")).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap_or_else(|| panic!("no {:?}", String::from_utf8_lossy(from)));
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// The same at the last place.
fn zip_with_last(from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = std::fs::read(fixture("zip/pytorch_model.bin")).unwrap();
    let at = bytes.windows(from.len()).rposition(|w| w == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn pytorch_archives() {
    let open = |bytes: &[u8]| error("pytorch_model.bin", bytes, &[], "pytorch_model.bin");
    let sound = std::fs::read(fixture("zip/pytorch_model.bin")).unwrap();
    let old = std::fs::read(fixture("old/pytorch_model.bin")).unwrap();
    let end = sound.windows(4).rposition(|w| w == b"PK\x05\x06").unwrap();
    let patched = |at: usize, bytes: &[u8]| {
        let mut copy = sound.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        open(&copy)
    };
    let first = sound.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    let wide = sound.windows(4).rposition(|w| w == b"PK\x06\x06").unwrap();
    let cut = |n: usize| open(&sound[..n]);
    let cases = [
        ("neither", open(b"")),
        ("neither", open(b"hello")),
        ("git-lfs", open(b"version https://git-lfs.github.com/spec/v1\n")),
        ("neither", open(b"<!doctype html>")),
        ("neither", open(b"\x93NUMPY")),
        ("cut off", open(b"PK")),
        ("cut off", open(b"PK\x03\x04")),
        ("cut off", cut(1000)),
        ("cut off", cut(sound.len() / 2)),
        ("cut off", cut(end)),
        ("cut off", cut(end + 10)),
        ("directory", patched(wide + 32, &[0xff, 0x7f])),
        ("directory", patched(wide + 48, &[0xff, 0xff, 0xff, 0x7f])),
        ("directory", patched(wide + 48, &[1, 0, 0, 0])),
        ("zip64", patched(wide, b"PKxx")),
        ("directory", patched(first, b"PKxx")),
        ("compressed", patched(first + 10, &[8, 0])),
        ("encrypted", patched(first + 8, &[1, 0])),
        ("takes", patched(first + 20, &[1, 0, 0, 0])),
        ("beyond the end", patched(first + 20, &[0xfe, 0xff, 0xff, 0x7f, 0xfe, 0xff, 0xff, 0x7f])),
        ("beyond the end", patched(first + 42, &[0xff, 0xff, 0xff, 0x7f])),
        ("directory", patched(first + 28, &[0xff, 0xff])),
        ("no data.pkl", open(&zip_with_last(b"data.pkl", b"data.pkx"))),
        ("big-endian", open(&zip_with(b"little", b"bigbig"))),
        ("which tensors lie in", open(&zip_with_last(b"/data/3", b"/data/x"))),
        ("torch._utils._rebuild_tensor_v9", open(&zip_with(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"))),
        ("collections.OrderedDicx", open(&zip_with(b"OrderedDict", b"OrderedDicx"))),
        ("os.system", open(&zip_with(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n######################"))),
        ("torch.FloatStoragx", open(&zip_with(b"FloatStorage", b"FloatStoragx"))),
        ("persistent", open(&zip_with(b"storage", b"storagx"))),
        ("UTF-8", open(&zip_with(b"bert.embeddings.word", b"\xff\xff\xff\xff.embeddings.word"))),
        // the older form
        ("ends within", open(&old[..100])),
        ("cut off", open(&old[..old.len() - 1])),
        ("cut off", open(&old[..old.len() - 2000])),
        ("not one of torch.save", open(b"\x80\x02K\x01.")),
        ("ends within", open(b"\x80")),
        ("protocol 1", open(b"\x80\x01N.")),
        ("posix.system", open(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.")),
        ("1001", open(&[b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".as_slice(), b"\x80\x02K\x07."].concat())),
    ];
    all(cases, 30);
    // A program in the pickle leaves no trace.
    assert!(!Path::new("cloze-was-here").exists());
}

#[test]
fn a_pickle_cannot_blow_up() {
    let open = |pickle: &[u8]| {
        let old: Vec<u8> = [b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.".as_slice(), b"\x80\x02M\xe9\x03.", b"\x80\x02}.", pickle].concat();
        error("pytorch_model.bin", &old, &[], "pytorch_model.bin")
    };
    // copies of copies: ten lists, each of ten times the one before it
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    for i in 0..10u8 {
        laughs.extend([b']', b'q', i + 1, b'(']);
        for _ in 0..10 {
            laughs.extend([b'h', i]);
        }
        laughs.push(b'e');
    }
    laughs.push(b'.');
    assert!(open(&laughs).contains("ends within"), "references are not followed");
    // one long list, asked for as a dictionary again and again
    let mut copies = b"\x80\x02ccollections\nOrderedDict\nq\x00](".to_vec();
    for _ in 0..5000 {
        copies.extend(b"K\x01K\x02\x86");
    }
    copies.extend(b"eq\x01");
    for _ in 0..2000 {
        copies.extend(b"h\x00h\x01\x85R");
    }
    copies.push(b'.');
    assert!(open(&copies).contains("copied values"));
    // a million marks, a text that claims four gigabytes
    assert!(open(&[b"\x80\x02".as_slice(), &vec![b'('; 5_000_000], b"."].concat()).contains("too many marks"));
    assert!(open(b"\x80\x02X\xff\xff\xff\xffx.").contains("ends within"));
}

#[test]
fn a_view_cannot_fill_the_disk() {
    // strides of 0 make much of little: shape (2^30,), every element the first of the storage
    let name = b"bert.pooler.dense.bias";
    let bytes = std::fs::read(fixture("zip/pytorch_model.bin")).unwrap();
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
    // (K\x08\x85 ... K\x01\x85): shape and strides of that bias, as one-tuples
    let shape = at + bytes[at..].windows(3).position(|w| w == b"K\x08\x85").unwrap();
    let mut broken = bytes.clone();
    broken[shape + 1] = 200;
    let error = error("pytorch_model.bin", &broken, &[], "pytorch_model.bin");
    assert!(error.contains("beyond its storage") && error.contains("bert.pooler.dense.bias"), "{error}");
}

/// A table of LevelDB with one block of data.
fn table(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    fn varint(mut n: usize, out: &mut Vec<u8>) {
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }
    fn block(entries: &[(&[u8], &[u8])], file: &mut Vec<u8>) -> Vec<u8> {
        let start = file.len();
        for (key, value) in entries {
            varint(0, file);
            varint(key.len(), file);
            varint(value.len(), file);
            file.extend_from_slice(key);
            file.extend_from_slice(value);
        }
        file.extend([0, 0, 0, 0, 1, 0, 0, 0]);
        let mut handle = Vec::new();
        varint(start, &mut handle);
        varint(file.len() - start, &mut handle);
        file.push(0);
        let crc = crc32c::crc32c(&file[start..]);
        file.extend((crc.rotate_right(15).wrapping_add(0xa282_ead8)).to_le_bytes());
        handle
    }
    let mut file = Vec::new();
    let data = block(entries, &mut file);
    let meta = block(&[], &mut file);
    let index = block(&[(b"z", &data)], &mut file);
    let mut footer = [meta, index].concat();
    footer.resize(40, 0);
    footer.extend(0xdb47_7524_8b80_fb57u64.to_le_bytes());
    file.extend(footer);
    file
}

#[test]
fn tensorflow_checkpoints() {
    let sound = std::fs::read(fixture("tf/bert_model.ckpt.index")).unwrap();
    let data = std::fs::read(fixture("tf/bert_model.ckpt.data-00000-of-00001")).unwrap();
    let open = |index: &[u8]| error("bert_model.ckpt.index", index, &[("bert_model.ckpt.data-00000-of-00001", &data)], "bert_model.ckpt");
    let patched = |at: usize, byte: u8| {
        let mut copy = sound.clone();
        copy[at] = byte;
        open(&copy)
    };
    const HEADER: &[u8] = &[8, 1]; // one data file
    let one = |value: &[u8]| open(&table(&[(b"", HEADER), (b"bert/pooler/dense/bias", value)]));
    let n = sound.len();
    // dtype 1 (f32), shape [8], size 32, and a checksum that is wrong
    let entry = |dtype: u8, dims: &[u8], offset: u8, size: u8| {
        let mut shape = Vec::new();
        for d in dims {
            shape.extend([0x12, 2, 8, *d]);
        }
        let mut bytes = vec![8, dtype, 0x12, shape.len() as u8];
        bytes.extend(shape);
        bytes.extend([0x20, offset, 0x28, size, 0x35, 1, 2, 3, 4]);
        bytes
    };
    let flipped = {
        let mut data = data.clone();
        data[100] ^= 1;
        error("bert_model.ckpt.index", &sound, &[("bert_model.ckpt.data-00000-of-00001", &data)], "data-00000-of-00001")
    };
    let short = error("bert_model.ckpt.index", &sound, &[("bert_model.ckpt.data-00000-of-00001", &data[..100])], "data-00000-of-00001");
    let cases = [
        ("shorter", open(b"")),
        ("shorter", open(&sound[..47])),
        ("table", open(&sound[..n - 1])),
        ("table", open(&[&sound[..], &[0]].concat())),
        ("table", open(&[b'x'; 100])),
        ("table", patched(n - 1, 0)),
        ("checksum", patched(10, 0xff)),
        ("checksum", patched(n / 2, 0x55)),
        ("beyond the end", patched(n - 45, 0xff)),
        ("header", open(&table(&[]))),
        ("header", open(&table(&[(b"a", HEADER)]))),
        ("header", open(&table(&[(b"", b"\xff\xff")]))),
        ("big-endian", open(&table(&[(b"", &[8, 1, 16, 1])]))),
        ("0 data files", open(&table(&[(b"", b"")]))),
        ("data files", open(&table(&[(b"", &[8, 0xff, 0xff, 0xff, 0x7f])]))),
        ("data-00000-of-00002", open(&table(&[(b"", &[8, 2])]))),
        ("no variables of BERT", open(&table(&[(b"", HEADER)]))),
        ("no variables of BERT", open(&table(&[(b"", HEADER), (b"global_step", &[8, 9])]))),
        ("not UTF-8", open(&table(&[(b"", HEADER), (b"\xff\xfe", &[8, 1])]))),
        ("dense/bias", one(b"\xff")),
        ("element type 0", one(b"")),
        ("element type 7", one(&entry(7, &[8], 0, 32))),
        ("no sound shape", one(&[8, 1])),
        ("needs 32 bytes", one(&entry(1, &[8], 0, 31))),
        ("needs 36 bytes", one(&entry(1, &[9], 0, 32))),
        ("checksum", one(&entry(1, &[8], 0, 32))),
        ("no sound shape", one(&[8, 1, 0x12, 13, 0x12, 11, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])),
        ("no sound shape", one(&[8, 1, 0x12, 2, 0x18, 1])),
        ("data file 3", one(&[8, 1, 0x12, 4, 0x12, 2, 8, 8, 0x18, 3, 0x28, 32])),
        ("beyond the end", one(&[8, 1, 0x12, 4, 0x12, 2, 8, 8, 0x20, 0xff, 0xff, 0xff, 0x7f, 0x28, 32])),
        ("partitioned", one(&[8, 1, 0x12, 4, 0x12, 2, 8, 8, 0x28, 32, 0x3a, 1, 0])),
        (
            "a kernel of shape",
            open(&table(&[(b"", HEADER), (b"bert/pooler/dense/kernel", &with_crc(&entry(1, &[8], 0, 32), &data[..32]))])),
        ),
        ("checksum", flipped),
        ("beyond the end", short),
    ];
    all(cases, 30);
    // The table of this test is sound: with the right checksum the variable is read.
    let folder = tempfile::tempdir().unwrap();
    let index = table(&[(b"", HEADER), (b"bert/pooler/dense/bias", &with_crc(&entry(1, &[8], 0, 32), &data[..32]))]);
    std::fs::write(folder.path().join("bert_model.ckpt.index"), index).unwrap();
    std::fs::write(folder.path().join("bert_model.ckpt.data-00000-of-00001"), &data).unwrap();
    assert_eq!(Container::open(folder.path()).unwrap().names().collect::<Vec<_>>(), ["bert.pooler.dense.bias"]);
}

/// An entry whose last field is the checksum of `values`.
fn with_crc(entry: &[u8], values: &[u8]) -> Vec<u8> {
    let mut entry = entry.to_vec();
    let at = entry.len() - 4;
    entry[at..].copy_from_slice(&crc32c::crc32c(values).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
    entry
}

#[test]
fn modules_of_sentence_transformers() {
    let read = |change: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        for (folder_name, file) in [
            ("", "modules.json"),
            ("", "config.json"),
            ("", "sentence_bert_config.json"),
            ("", "config_sentence_transformers.json"),
            ("1_Pooling", "config.json"),
            ("2_Dense", "config.json"),
            ("2_Dense", "model.safetensors"),
            ("3_Dense", "config.json"),
            ("3_Dense", "model.safetensors"),
        ] {
            std::fs::create_dir_all(folder.path().join(folder_name)).unwrap();
            std::fs::copy(fixture("sentence").join(folder_name).join(file), folder.path().join(folder_name).join(file)).unwrap();
        }
        change(folder.path());
        SentenceModel::read(folder.path()).err().map_or_else(|| "it was read".to_owned(), |e| e.to_string())
    };
    let with = |file: &'static str, text: String| {
        let error = read(&|folder: &Path| std::fs::write(folder.join(file), &text).unwrap());
        assert!(error.contains(Path::new(file).file_name().unwrap().to_str().unwrap()), "{file} is not named in: {error}");
        error
    };
    assert_eq!(read(&|_| ()), "it was read");
    let modules = |text: &str| with("modules.json", text.into());
    let module =
        |kind: &str, path: &str| json!({"idx": 0, "name": "0", "path": path, "type": format!("sentence_transformers.models.{kind}")});
    let list =
        |parts: &[(&str, &str)]| modules(&json!(parts.iter().map(|(kind, path)| module(kind, path)).collect::<Vec<_>>()).to_string());
    let pooling = |value: Value| with("1_Pooling/config.json", value.to_string());
    let dense = |key: &str, value: Value| {
        let mut config =
            json!({"in_features": 8, "out_features": 6, "bias": true, "activation_function": "torch.nn.modules.activation.Tanh"});
        config[key] = value;
        with("2_Dense/config.json", config.to_string())
    };
    let (t, p, d, n) = (("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "4_Normalize"));
    let cases = [
        ("line 1", modules("")),
        ("line 1", modules("[")),
        ("a list", modules("{}")),
        ("a list", modules("null")),
        ("no Transformer", modules("[]")),
        ("`type`", modules("[3]")),
        ("`type`", modules("[{}]")),
        ("`path`", modules("[{\"type\": \"sentence_transformers.models.Transformer\"}]")),
        ("`path`", modules("[{\"type\": \"sentence_transformers.models.Transformer\", \"path\": 3}]")),
        ("custom_st.Transformer", modules("[{\"type\": \"custom_st.Transformer\", \"path\": \"\"}]")),
        ("WordEmbeddings", list(&[("WordEmbeddings", "")])),
        ("CNN", list(&[t, ("CNN", "1_Pooling")])),
        ("outside of the folder", list(&[("Transformer", "../x")])),
        ("outside of the folder", list(&[t, ("Pooling", "/etc")])),
        ("outside of the folder", list(&[t, ("Pooling", "a\\b")])),
        ("after a Transformer", list(&[p, t])),
        ("after a Pooling", list(&[t, d, p])),
        ("after a Pooling", list(&[t, n])),
        ("second Transformer", list(&[t, t, p])),
        ("second Pooling", list(&[t, p, p])),
        ("no Pooling", list(&[t])),
        ("after Normalize", list(&[t, p, n, d])),
        ("gives 6", list(&[t, p, d, d])),
        ("expected true or false", pooling(json!({"pooling_mode_mean_tokens": "yes"}))),
        ("neither", pooling(json!({}))),
        ("switched on", pooling(json!({"pooling_mode_mean_tokens": false}))),
        ("2 pooling modes", pooling(json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}))),
        ("average", pooling(json!({"pooling_mode": "average"}))),
        ("include_prompt", pooling(json!({"pooling_mode": "mean", "include_prompt": false}))),
        ("expected a name", pooling(json!({"pooling_mode": 3}))),
        ("2 pooling modes", pooling(json!({"pooling_mode": ["cls", "mean"]}))),
        ("3", pooling(json!({"pooling_mode": [3]}))),
        ("in_features", dense("in_features", json!(-1))),
        ("out_features", dense("out_features", json!(1u64 << 40))),
        ("bias", dense("bias", json!("no"))),
        ("os.system", dense("activation_function", json!("os.system"))),
        ("Mish", dense("activation_function", json!("torch.nn.modules.activation.Mish"))),
        ("use_residual", dense("use_residual", json!(true))),
        ("token_embeddings", dense("module_input_name", json!("token_embeddings"))),
        ("max_seq_length", with("sentence_bert_config.json", "{\"max_seq_length\": -3}".into())),
        ("max_seq_length", with("sentence_bert_config.json", "{\"max_seq_length\": \"long\"}".into())),
        ("prompts", with("config_sentence_transformers.json", "{\"prompts\": [1]}".into())),
        ("default_prompt_name", with("config_sentence_transformers.json", "{\"default_prompt_name\": \"q\"}".into())),
    ];
    all(cases, 30);
    let gone = read(&|folder: &Path| std::fs::remove_file(folder.join("2_Dense/model.safetensors")).unwrap());
    assert!(gone.contains("2_Dense"), "{gone}");
    let wider = {
        let text = json!({"in_features": 8, "out_features": 7, "bias": true}).to_string();
        read(&|folder: &Path| std::fs::write(folder.join("2_Dense/config.json"), &text).unwrap())
    };
    assert!(wider.contains("linear.weight") && wider.contains("[7, 8]"), "{wider}");
}
