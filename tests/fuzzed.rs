//! The cases kept from fuzzing, tried with no more than the pinned compiler: see fuzz/src/lib.rs.

#[path = "../fuzz/src/cases.rs"]
pub mod cases;
#[path = "../fuzz/src/properties/mod.rs"]
pub mod properties;

use std::path::Path;
use std::{fs, panic};

#[test]
fn every_property_holds_of_every_case() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/cases");
    let mut broken = Vec::new();
    for (name, holds) in properties::ALL {
        let text = fs::read_to_string(folder.join(name)).expect("a file of cases");
        let cases = cases::read(&text);
        assert!(!cases.is_empty(), "{name}");
        for case in cases {
            assert_eq!(cases::read(&cases::written(&case)), [&case[..]], "written as it is read");
            if panic::catch_unwind(|| holds(&case)).is_err() {
                broken.push(format!("{name}: {}", cases::written(&case)));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
