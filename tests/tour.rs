//! The tour, run as its readers run it.
//!
//! Enters: `sql/tour/*.sql`, the examples of growing inputs in README.md and docs/streams.md, and the shipped data.
//! Leaves: nothing. Always holds: what a page prints is `testdata/tour/PAGE.out`; FUSE_BLESS=1 writes those anew.

use std::path::Path;

use crate::support::Place;

/// The tour reads `testdata/` and writes `out/` where it is started.
fn place_with_data() -> Place {
    let place = Place::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::os::unix::fs::symlink(root.join("testdata"), place.path().join("testdata")).expect("a link");
    place
}

/// A page over a server, which the tests of that system run.
fn needs_server(page: &Path) -> bool {
    let text = std::fs::read_to_string(page).expect("the page");
    ["kafka://", "STORED AS POSTGRES", "s3://"].iter().any(|server| text.contains(server))
}

#[test]
fn every_page_prints_what_it_did() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = 0;
    for entry in std::fs::read_dir(root.join("sql/tour")).expect("the tour") {
        let page = entry.expect("an entry").path();
        if needs_server(&page) {
            continue;
        }
        let name = page.file_stem().expect("a name").to_string_lossy().into_owned();
        let place = place_with_data();
        let page = page.display().to_string();
        let streams = std::fs::read_to_string(&page).expect("the page").contains("\nCREATE STREAM");
        let flags: &[&str] = if streams { &["query", "--once", &page] } else { &["query", &page] };
        let first = place.run(flags).data();
        let again = place.run(flags).data();
        if streams {
            assert_eq!(again, "", "{name}: nothing new has come");
        } else {
            assert_eq!(first, again, "{name}: a second run gives something else");
        }
        let golden = root.join(format!("testdata/tour/{name}.out"));
        if std::env::var_os("FUSE_BLESS").is_some() {
            std::fs::create_dir_all(root.join("testdata/tour")).expect("a folder");
            std::fs::write(&golden, &first).expect("a golden");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(first, expected, "{name}: run with FUSE_BLESS=1 if this is what it should print");
        pages += 1;
    }
    assert!(pages > 0);
}

#[test]
fn every_page_passes_check_in_a_clean_folder() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = place_with_data();
    for entry in std::fs::read_dir(root.join("sql/tour")).expect("the tour") {
        let page = entry.expect("an entry").path();
        if needs_server(&page) {
            continue;
        }
        let page = page.display().to_string();
        let ran = place.run(&["check", &page]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    assert_eq!(place.files().iter().filter(|name| name.starts_with("out")).count(), 0);
}

#[test]
fn the_examples_of_growing_inputs_run() {
    for page in ["README.md", "docs/streams.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect(page);
        let blocks = text.split("```sql\n").skip(1).filter_map(|block| block.split("```").next());
        let sql = blocks.into_iter().find(|block| block.contains("CREATE STREAM orders")).expect(page);
        let place = Place::new();
        place.write("orders.sql", sql);
        place.write("incoming/1.json", "{\"id\":1,\"customer\":7,\"amount\":200.5}\n");
        place.run(&["query", "orders.sql", "--once"]).data();
        place.write("incoming/2.json", "{\"id\":2,\"customer\":7,\"amount\":0.25}\n");
        place.run(&["query", "orders.sql", "--once"]).data();
        assert_eq!(place.sql("SELECT customer, total FROM 'totals.parquet'").data(), "customer,total\n7,200.75\n");
        let told = place.run(&["inspect", ".fuse/orders"]).data();
        assert!(told.contains("orders: files 2, last incoming/2.json"), "{page}: {told}");
    }
}
