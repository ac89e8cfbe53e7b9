//! Converts between a file with a case in each line and a folder with a case in each file, as fuzzers use it.
//!
//! `cases spread FILE FOLDER` writes each case to its own file. `cases gather FILE FOLDER` appends the new cases
//! of the folder to the lines, the shortest first. `cases show FILE` prints one case as a line.

use std::path::Path;
use std::{env, fs, io};

use notch_fuzz::cases;

fn main() -> io::Result<()> {
    let args: Vec<_> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["spread", file, folder] => spread(Path::new(file), Path::new(folder)),
        ["gather", file, folder] => gather(Path::new(file), Path::new(folder)),
        ["show", file] => {
            println!("{}", cases::to_line(&fs::read(file)?));
            Ok(())
        }
        _ => Err(io::Error::other("usage: cases spread|gather FILE FOLDER, cases show FILE")),
    }
}

fn spread(file: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (index, case) in cases::read(&fs::read_to_string(file)?).iter().enumerate() {
        fs::write(folder.join(format!("{index:04}")), case)?;
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
        text += &cases::to_line(&case);
        text += "\n";
    }
    fs::write(file, text)
}
