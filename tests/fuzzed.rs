//! Tries the cases kept from fuzzing, with the pinned compiler only: see fuzz/src/lib.rs.

#[path = "../fuzz/src/cases.rs"]
pub mod cases;
#[path = "../fuzz/src/properties/mod.rs"]
pub mod properties;

use std::path::Path;
use std::{fs, panic};

#[test]
fn every_property_holds_for_every_case() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/cases");
    let mut broken = Vec::new();
    for (name, holds) in properties::ALL {
        let text = fs::read_to_string(folder.join(name)).expect("a file of cases");
        let cases = cases::read(&text);
        assert!(!cases.is_empty(), "{name}");
        for case in cases {
            assert_eq!(cases::read(&cases::to_line(&case)), [&case[..]], "a case changes when it is written and read");
            if panic::catch_unwind(|| holds(&case)).is_err() {
                broken.push(format!("{name}: {}", cases::to_line(&case)));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
