//! Between a file with a case a line and a folder with a case a file, which is what a fuzzer reads and writes.
//!
//! `cases spread FILE FOLDER` puts each case into a file of its own. `cases gather FILE FOLDER` adds to the lines those
//! of the folder's cases that are not there yet, the short ones first. `cases show FILE` prints one case as a line.

use std::path::Path;
use std::{env, fs, io};

use notch_fuzz::cases;

fn main() -> io::Result<()> {
    let args: Vec<_> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["spread", file, folder] => spread(Path::new(file), Path::new(folder)),
        ["gather", file, folder] => gather(Path::new(file), Path::new(folder)),
        ["show", file] => {
            println!("{}", cases::written(&fs::read(file)?));
            Ok(())
        }
        _ => Err(io::Error::other("usage: cases spread|gather FILE FOLDER, cases show FILE")),
    }
}

fn spread(file: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (place, case) in cases::read(&fs::read_to_string(file)?).iter().enumerate() {
        fs::write(folder.join(format!("{place:04}")), case)?;
    }
    Ok(())
}

fn gather(file: &Path, folder: &Path) -> io::Result<()> {
    let mut text = fs::read_to_string(file)?;
    let known = cases::read(&text);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let case = fs::read(entry?.path())?;
        if !case.is_empty() && !known.contains(&case) {
            found.push(case);
        }
    }
    found.sort_by(|one, other| one.len().cmp(&other.len()).then(one.cmp(other)));
    for case in found {
        text += &cases::written(&case);
        text += "\n";
    }
    fs::write(file, text)
}
