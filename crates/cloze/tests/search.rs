//! An index takes the place of an older one and of nothing else, and is asked by the model that made it.

use std::path::{Path, PathBuf};

use cloze::search::{Index, SearchError, build};
use cloze::task::Columns;
use cloze::train::run::Precision;
use cloze::{Device, DeviceChoice, Error, Pipeline};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/containers").join(name)
}

#[test]
fn an_index_replaces_nothing_but_an_index_and_knows_its_model() {
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let load = |name: &str| Pipeline::load(&device, &fixture(name), Precision::F32, None).unwrap();
    let (narrow, wide) = (load("sentence"), load("sentence-mpnet"));
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("texts.txt");
    std::fs::write(&data, "the cat sat\nthe dog ran\n").unwrap();
    let index_of = |pipeline: &Pipeline, dimensions: Option<usize>, out: &Path| {
        build(pipeline, Path::new("model"), &data, &Columns::default(), dimensions, out, &mut |_| ())
    };

    let out = folder.path().join("index");
    let made = index_of(&narrow, Some(3), &out).unwrap();
    assert_eq!((made.width, made.whole, made.count), (3, Some(4), 2));
    assert_eq!(Index::open(&out).unwrap().query(&narrow, "the cat sat", 1).unwrap().len(), 1);
    // 8 numbers can be cut to 3, but are others
    let error = Index::open(&out).unwrap().query(&wide, "the cat sat", 1).unwrap_err();
    assert!(matches!(error, Error::Search(SearchError::Width { index: 4, model: 8, .. })), "{error}");
    // an index of a version that did not say how wide its model was
    let manifest = std::fs::read_to_string(out.join("index.json")).unwrap();
    let old: String = manifest.lines().filter(|line| !line.contains("whole")).collect();
    std::fs::write(out.join("index.json"), old).unwrap();
    assert_eq!(Index::open(&out).unwrap().query(&narrow, "the dog ran", 1).unwrap().len(), 1);

    // made again in its place
    index_of(&narrow, None, &out).unwrap();
    assert_eq!(Index::open(&out).unwrap().manifest().width, 4);
    // a file beside it is somebody's, and so is a folder without an index
    let mine = out.join("notes.txt");
    std::fs::write(&mine, "mine").unwrap();
    for gone in [None, Some("index.json")] {
        gone.into_iter().for_each(|name| std::fs::remove_file(out.join(name)).unwrap());
        let error = index_of(&narrow, None, &out).unwrap_err();
        assert!(matches!(error, Error::Search(SearchError::Occupied { .. })) && error.to_string().contains("index"), "{error}");
        assert_eq!(std::fs::read_to_string(&mine).unwrap(), "mine");
    }
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_eq!(index_of(&narrow, None, &empty).unwrap().count, 2);
}
