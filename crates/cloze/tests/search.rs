//! An index takes the place of an older one and of nothing else, and is asked by the model that made it.

use std::path::{Path, PathBuf};

use cloze::model::blueprint::Position;
use cloze::model::{Blueprint, Heads, Model};
use cloze::search::{Index, SearchError, build};
use cloze::task::Columns;
use cloze::text::Tokenizer;
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

/// A model of its own, whose vectors are as long as those of the others.
fn model(folder: &Path, seed: u64) -> PathBuf {
    let path = folder.join(format!("model-{seed}"));
    let pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat dog ran 1 9 8 4 ##9 ##8 ##4 猫 坐";
    let tokenizer = Tokenizer::from_pieces(pieces.split(' ').map(String::from).collect(), Default::default()).unwrap();
    let position = Position::Learned { max: 8, offset: 0 };
    let blueprint = Blueprint { position, initializer_range: 0.3, ..Blueprint::bert(tokenizer.vocab_size(), 1, 16, 2, 32) };
    let model = Model::new("bert", blueprint, Heads::default());
    std::fs::create_dir_all(&path).unwrap();
    cloze::model::save(&path, &model, &model.table().init(seed), &[("pad_token_id", 0)]).unwrap();
    tokenizer.save(&path).unwrap();
    path
}

#[test]
fn what_would_be_found_wrongly_is_told() {
    let device = Device::open(DeviceChoice::Cpu, Some(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let load = |seed: u64| Pipeline::load(&device, &model(folder.path(), seed), Precision::F32, None).unwrap();
    let (mine, other) = (load(1), load(2));
    let out = folder.path().join("index");
    let index = |name: &str, text: &str, dimensions: Option<usize>| {
        let data = folder.path().join(name);
        std::fs::write(&data, text).unwrap();
        build(&mine, Path::new("model-1"), &data, &Columns::default(), dimensions, &out, &mut |_| ())
    };
    // Two models whose vectors are equally long say nothing of each other's.
    index("texts.txt", "the cat sat\n猫坐\n", Some(8)).unwrap();
    assert_eq!(Index::open(&out).unwrap().query(&mine, "猫", 1).unwrap()[0].row["text"], "猫坐");
    let error = Index::open(&out).unwrap().query(&other, "猫", 1).unwrap_err();
    assert!(matches!(&error, Error::Search(SearchError::OtherModel { made_by, .. }) if made_by == "model-1"), "{error}");
    // A number is a text of digits, anything else is none.
    let made = index("rows.jsonl", "{\"text\": \"the cat\"}\n{\"text\": 1984, \"id\": 7}\n", None).unwrap();
    assert_eq!((made.count, made.cut), (2, 0));
    assert_eq!(Index::open(&out).unwrap().query(&mine, "1984", 1).unwrap()[0].row, serde_json::json!({"text": "1984", "id": 7}));
    let error = index("lists.jsonl", "{\"text\": \"the cat\"}\n{\"text\": [\"the\"]}\n", None).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("`text`"), "{error}");
    // What is not read is counted.
    assert_eq!(index("long.txt", "the cat sat\nthe cat sat the dog ran the cat\n", None).unwrap().cut, 1);
    // Nothing, and vectors of no or of more numbers than there are, make no index; the one that is there stays.
    let error = index("nothing.csv", "text,id\n", None).unwrap_err().to_string();
    assert!(error.contains("nothing.csv") && error.contains("no rows"), "{error}");
    for dimensions in [0, 17] {
        let error = index("texts.txt", "the cat\n", Some(dimensions)).unwrap_err();
        assert!(matches!(error, Error::Search(SearchError::Dimensions { width: 16, .. })), "{error}");
    }
    assert_eq!(Index::open(&out).unwrap().manifest().cut, 1);
}
