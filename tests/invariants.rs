//! The invariants of ARCHITECTURE.md: what the sources of notch must not hold, and where.
//!
//! A source is read as tokens, so comments and strings are distinguished from code, and macros are read like other
//! code.
//! `#[cfg(test)]` items and documentation are left out. The compiler rejects unsafe code; a test here checks that every
//! package forbids it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// A path with its `use` groups spread out, like `std::fs::File` or `async`; or a literal without its quotes.
#[derive(Debug)]
struct Item {
    line: usize,
    is_literal: bool,
    text: String,
}

impl Item {
    fn is_path(&self, holds: impl Fn(&str) -> bool) -> bool {
        !self.is_literal && holds(&self.text)
    }

    fn has_segment(&self, names: &[&str]) -> bool {
        self.is_path(|path| path.split("::").any(|segment| names.contains(&segment)))
    }

    fn is_text(&self, holds: impl Fn(&str) -> bool) -> bool {
        self.is_literal && holds(&self.text)
    }
}

/// What must not be found outside the modules `except`.
struct Rule {
    name: &'static str,
    except: &'static [&'static str],
    finds: fn(&Item) -> bool,
}

const RULES: &[Rule] = &[
    Rule {
        name: "socket",
        except: &["driver", "probe", "main"],
        finds: |item| {
            item.has_segment(&["TcpStream", "TcpListener", "UdpSocket", "ToSocketAddrs"])
                || item.has_segment(&["UnixStream", "UnixListener", "UnixDatagram"])
        },
    },
    Rule {
        name: "clock",
        except: &["driver", "probe", "main", "system"],
        finds: |item| {
            item.has_segment(&["Instant"])
                || item.is_path(|path| path.ends_with("SystemTime::now") || path == "elapsed")
        },
    },
    Rule { name: "thread", except: &["driver", "probe", "main"], finds: |item| item.has_segment(&["thread"]) },
    Rule {
        name: "runtime",
        except: &["driver", "probe", "main"],
        finds: |item| item.is_path(|path| matches!(path.split("::").next(), Some("async" | "await" | "tokio"))),
    },
    Rule {
        name: "file",
        except: &["ledger", "system"],
        finds: |item| item.has_segment(&["fs", "File", "OpenOptions"]),
    },
    Rule {
        name: "RESP",
        except: &["resp", "redis", "ledger"],
        finds: |item| {
            item.is_text(|text| {
                let length = text
                    .strip_prefix(['$', '*'])
                    .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '{'));
                length.is_some() || text == "$" || COMMANDS.contains(&text.split(' ').next().unwrap_or_default())
            })
        },
    },
    Rule {
        name: "line end",
        except: &["resp", "redis", "ledger", "http"],
        finds: |item| item.is_text(|text| text.contains("\\r\\n")),
    },
    Rule {
        name: "HTTP",
        except: &["http"],
        finds: |item| {
            item.is_text(|text| text.split("HTTP/").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
        },
    },
    // What derives Debug shows nothing in the binary that is shipped: see scripts/build.
    Rule {
        name: "Debug",
        except: &[],
        finds: |item| {
            item.is_text(|text| {
                text.split('{')
                    .skip(1)
                    .any(|rest| rest.split_once('}').is_some_and(|(inside, _)| inside.ends_with('?')))
            })
        },
    },
];

const COMMANDS: [&str; 10] = ["INCR", "INCRBY", "EVAL", "EVALSHA", "SCRIPT", "SELECT", "AUTH", "HELLO", "PING", "PONG"];

#[test]
fn the_sources_keep_to_the_invariants() {
    let modules = modules();
    let mut broken = Vec::new();
    let mut tests = BTreeSet::new();
    for file in sources(Path::new("src")) {
        // A parent comes before its children, and declares which of them are tests.
        if !file.ancestors().any(|part| tests.contains(&part.with_extension(""))) {
            let source = fs::read_to_string(&file).expect("a source");
            broken.extend(check(&file, &source, &modules, &mut tests));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_rule_finds_what_breaks_it_and_nothing_else() {
    let modules = ["first", "http", "system", "redis", "driver", "last"].map(str::to_owned);
    for (name, file, source) in [
        ("socket", "first", "use std::{fmt, net::{IpAddr, TcpStream}};"),
        ("socket", "first", "fn x() { std::net::UdpSocket::bind(\"\") }"),
        ("socket", "first", "fn x() { y!(a, std::net::TcpListener::bind(z)) }"),
        ("clock", "first", "use std::time::{Duration, Instant};"),
        ("clock", "first", "fn x() { std::time::SystemTime::now() }"),
        ("clock", "first", "fn x() { std::time::UNIX_EPOCH.elapsed() }"),
        ("thread", "first", "fn x() { std::thread::sleep(y) }"),
        ("thread", "first", "fn x<'a>() -> char { '\"' } use std::thread;"),
        ("thread", "first", "#[cfg(test)] mod more { fn x() {} } use std::thread;"),
        ("thread", "first", "#[cfg(test)] mod more; use std::thread;"),
        ("thread", "first", "#[cfg(feature = \"tokio\")] use std::thread;"),
        ("runtime", "first", "async fn x() {}"),
        ("runtime", "first", "fn x() { y.await }"),
        ("runtime", "first", "use tokio::sync;"),
        ("runtime", "first", "#[tokio::main] fn x() {}"),
        ("file", "first", "use std::{fmt, fs};"),
        ("file", "main", "fn x() { std::fs::read(\"\") }"),
        ("RESP", "first", "const X: &str = \"$3\";"),
        ("RESP", "first", "fn x() { format!(\"*{}\", 3) }"),
        ("RESP", "first", "const X: u8 = b'$';"),
        ("RESP", "first", "const X: &[u8] = b\"INCRBY\";"),
        ("RESP", "first", "const X: &str = r#\"SELECT 1\"#;"),
        ("line end", "first", "const X: &[u8] = b\"\\r\\n\";"),
        ("HTTP", "first", "const X: &str = \"GET / HTTP/1.1\";"),
        ("HTTP", "redis", "const X: &str = \"GET / HTTP/1.1\";"),
        ("Debug", "first", "fn x() { format!(\"{y:?}\") }"),
        ("Debug", "first", "fn x() { format!(\"{:#?}\", y) }"),
        ("Debug", "driver", "fn x() { info!(y = ?z, \"words\") }"),
        ("Debug", "driver", "fn x() { info!(y, ?z) }"),
        ("order", "first", "use crate::last::X;"),
        ("order", "first", "use super::{last::X};"),
        ("order", "first", "fn x() { crate::last::x() }"),
        ("order", "first/deep", "use super::super::last::X;"),
        ("order", "first", "use crate::*;"),
        ("order", "stray", "fn x() {}"),
    ] {
        let file = PathBuf::from(format!("src/{file}.rs"));
        let found = check(&file, &format!("\n{source}\n"), &modules, &mut BTreeSet::new());
        let line = if name == "order" && source == "fn x() {}" { 1 } else { 2 };
        let expected = format!("{}:{line}: {name}: ", file.display());
        assert!(found.len() == 1 && found[0].starts_with(&expected), "{expected}{source}: {found:?}");
    }
    for (file, source) in [
        ("first", "fn x() { std::time::SystemTime::UNIX_EPOCH + y }"),
        ("first", "use std::{net::SocketAddr, time::Duration};"),
        ("first", "// tokio, async: std::thread::sleep, HTTP/1.1, {:?}"),
        ("first", "/// HTTP/1.1, [`std::thread`]\nfn x() {}"),
        ("first", "/* \"a\" /* b */ std::net::TcpStream */ fn x() -> &str { \"std::thread\" }"),
        ("first", "fn x<'a>() -> char { '\"' } // std::thread"),
        ("first", "#[cfg(test)] mod more { use std::thread; fn x() { if y { format!(\"{z:?}\") } } }"),
        ("first", "#[cfg(test)] use std::{fs, thread};"),
        ("first", "#[cfg(test)] mod more { use crate::last::X; }"),
        ("first", "fn x() { y.trim_end_matches(['\\r', '\\n']) }"),
        ("first", "const X: &str = \"*\"; const Y: &str = \"PINGS\"; // \"$3\\r\\n\""),
        ("first", "fn x<T: ?Sized>() -> Option<()> { format!(\"{y} why?\"); z? }"),
        ("first/deep", "use super::X; use super::super::first::Y;"),
        ("last", "use crate::{first::X, last::Y};"),
        ("redis", "const X: &str = \"$3\\r\\n\";"),
        ("http", "const X: &str = \"HTTP/1.1\\r\\n\";"),
        ("system", "use std::{fs::File, time::Instant};"),
        ("driver/smol", "use std::{net::TcpStream, thread, time::Instant}; use tokio::net;"),
        ("main", "use std::{net::TcpStream, thread, time::Instant};"),
    ] {
        let found = check(&PathBuf::from(format!("src/{file}.rs")), source, &modules, &mut BTreeSet::new());
        assert!(found.is_empty(), "{source}: {found:?}");
    }
}

#[test]
fn every_package_forbids_unsafe_code() {
    for manifest in ["Cargo.toml", "benches/Cargo.toml", "bench/peers/rust/Cargo.toml", "fuzz/Cargo.toml"] {
        let text = fs::read_to_string(manifest).expect("a manifest");
        let (_, lints) = text.split_once("\n[lints.rust]\n").unwrap_or_else(|| panic!("no lints in {manifest}"));
        let mut levels = lints.lines().filter(|line| line.contains("unsafe_code"));
        assert_eq!((levels.next(), levels.next()), (Some("unsafe_code = \"forbid\""), None), "{manifest}");
    }
}

/// The modules in the order in which `src/lib.rs` declares them: each uses only modules above it.
fn modules() -> Vec<String> {
    let source = fs::read_to_string("src/lib.rs").expect("the library");
    let named =
        source.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'));
    named.map(str::to_owned).collect()
}

/// The Rust files of a folder and of those in it, in such an order that `a.rs` comes before `a/b.rs`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort_by_key(|path| (path.with_extension(""), path.is_dir()));
    let rust = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    paths.into_iter().flat_map(rust).filter(|path| path.extension().is_some_and(|it| it == "rs")).collect()
}

/// Returns `FILE:LINE: RULE: TEXT` for all that is wrong in a file, and adds the files of its test modules to `tests`.
fn check(file: &Path, source: &str, modules: &[String], tests: &mut BTreeSet<PathBuf>) -> Vec<String> {
    let tokens = source.parse::<TokenStream>().unwrap_or_else(|why| panic!("{}: {why}", file.display()));
    let mut reader = Reader { items: Vec::new(), tests: Vec::new() };
    reader.read(tokens, "");
    let folder = if file.ends_with("lib.rs") || file.ends_with("main.rs") {
        file.with_file_name("")
    } else {
        file.with_extension("")
    };
    tests.extend(reader.tests.iter().map(|name| folder.join(name)));
    let below: Vec<_> = file
        .strip_prefix("src")
        .expect("a source")
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    let at = |line: usize, rule: &str, text: &str| format!("{}:{line}: {rule}: {text}", file.display());
    let mut broken = Vec::new();
    for item in &reader.items {
        let rules = RULES.iter().filter(|rule| !rule.except.contains(&below[0].as_str()) && (rule.finds)(item));
        broken.extend(rules.map(|rule| at(item.line, rule.name, &item.text)));
    }
    if ["lib", "main"].contains(&below[0].as_str()) {
        return broken;
    }
    let Some(home) = modules.iter().position(|module| *module == below[0]) else {
        broken.push(at(1, "order", "not declared in src/lib.rs"));
        return broken;
    };
    // `super` reaches the root of the crate from the depth of the file.
    let root = vec!["super"; below.len()].join("::") + "::";
    for item in reader.items.iter().filter(|item| !item.is_literal) {
        let Some(rest) = item.text.strip_prefix("crate::").or(item.text.strip_prefix(&root)) else { continue };
        let used = rest.split("::").next().unwrap_or_default();
        if used == "*" || modules.iter().position(|module| module == used).is_some_and(|used| used > home) {
            broken.push(at(item.line, "order", &item.text));
        }
    }
    broken
}

/// Takes tokens apart.
struct Reader {
    items: Vec<Item>,
    /// The modules under `#[cfg(test)]` that have a file of their own.
    tests: Vec<String>,
}

impl Reader {
    /// Reads a group of tokens, whose paths start with `prefix` where it is the group of a `use`.
    fn read(&mut self, tokens: TokenStream, prefix: &str) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at] {
                TokenTree::Punct(sign) if sign.as_char() == '#' => self.attribute(&tokens, at),
                TokenTree::Ident(_) => self.path(&tokens, at, prefix),
                TokenTree::Group(group) => {
                    self.read(group.stream(), "");
                    at + 1
                }
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    let inside = text.trim_start_matches(['b', 'c', 'r']).trim_matches('#');
                    let inside = inside.strip_prefix(['"', '\'']).and_then(|rest| rest.strip_suffix(['"', '\'']));
                    self.push(&tokens[at], true, inside.unwrap_or_default());
                    at + 1
                }
                // `name = ?value` or `?value` in a macro of `tracing`.
                sign if is(sign, '?') && (at == 0 || is(&tokens[at - 1], '=') || is(&tokens[at - 1], ',')) => {
                    self.push(sign, true, "{?}");
                    at + 1
                }
                TokenTree::Punct(_) => at + 1,
            };
        }
    }

    /// Skips an attribute, and its item if that is only for tests.
    fn attribute(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let at = at + 1 + usize::from(tokens.get(at + 1).is_some_and(|next| is(next, '!')));
        let Some(TokenTree::Group(group)) = tokens.get(at) else { return at };
        let attribute: String = group.stream().to_string().split_whitespace().collect();
        if attribute.starts_with("cfg(test)") || attribute.starts_with("cfg(all(test,") {
            let ends = |token: &TokenTree| {
                is(token, ';') || matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
            };
            let item = &tokens[at + 1..];
            let length = item.iter().position(ends).map_or(item.len(), |end| end + 1);
            if let [.., TokenTree::Ident(word), TokenTree::Ident(name), end] = &item[..length]
                && word == "mod"
                && is(end, ';')
            {
                self.tests.push(name.to_string());
            }
            return at + 1 + length;
        }
        if !attribute.starts_with("doc=") {
            self.read(group.stream(), "");
        }
        at + 1
    }

    /// Reads a path, with all that a `use` names behind it.
    fn path(&mut self, tokens: &[TokenTree], at: usize, prefix: &str) -> usize {
        let mut path = format!("{prefix}{}", tokens[at]).replace("r#", "");
        let mut next = at + 1;
        while let [TokenTree::Punct(first), second, third, ..] = &tokens[next..]
            && first.as_char() == ':'
            && first.spacing() == Spacing::Joint
            && is(second, ':')
        {
            match third {
                TokenTree::Ident(name) => path += &format!("::{name}"),
                sign if is(sign, '*') => path += "::*",
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    self.read(group.stream(), &format!("{path}::"));
                    return next + 3;
                }
                _ => break,
            }
            next += 3;
        }
        self.push(&tokens[at], false, &path);
        next
    }

    fn push(&mut self, token: &TokenTree, is_literal: bool, text: &str) {
        self.items.push(Item { line: token.span().start().line, is_literal, text: text.to_owned() });
    }
}

fn is(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}
