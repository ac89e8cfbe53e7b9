//! Measures each part of a visit without sockets: `cargo bench --manifest-path benches/Cargo.toml`.
//!
//! The parts follow the path of a visit: its head is parsed, it joins a batch, the batch becomes a command, the reply
//! is decoded and distributed, or the ledger appends the batch. Batches of 1, 64 and 512 visits stand for as many
//! clients.

use std::path::PathBuf;
use std::{env, fs, process};

use divan::{Bencher, black_box};
use notch::batch::Batch;
use notch::counter::{Command, Key, NameLimit, StoreError};
use notch::http;
use notch::ledger::{Fsync, Ledger};
use notch::resp;

fn main() {
    divan::main();
}

const BATCHES: [u32; 3] = [1, 64, 512];

fn key() -> Key {
    Key::new(b"visits").expect("a valid key")
}

#[divan::bench]
fn resp_encode_incrby(bencher: Bencher<'_, '_>) {
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        resp::write_command(&mut out, black_box(&[b"INCRBY", b"visits", b"64"]));
    });
}

#[divan::bench(args = ["integer", "bulk", "line"])]
fn resp_decode(bencher: Bencher<'_, '_>, kind: &str) {
    let reply: &[u8] = match kind {
        "integer" => b":1048576\r\n",
        "bulk" => b"$7\r\n1048576\r\n",
        _ => b"+PONG\r\n",
    };
    bencher.bench_local(|| matches!(resp::decode(black_box(reply)), Ok(Some((_, length))) if length == reply.len()));
}

/// Requests as wrk, curl and a browser send them.
const HEADS: [(&str, &str); 3] = [
    ("wrk", "GET /count HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"),
    ("curl", "GET /count HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n\r\n"),
    (
        "browser",
        "GET /count HTTP/1.1\r\nHost: localhost:8080\r\nConnection: keep-alive\r\nCache-Control: max-age=0\r\n\
         Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like \
         Gecko) Chrome/140.0.0.0 Safari/537.36\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,\
         image/avif,image/webp,image/apng,*/*;q=0.8\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n\
         Sec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
         Accept-Language: en-GB,en;q=0.9\r\n\r\n",
    ),
];

#[divan::bench(args = ["wrk", "curl", "browser"])]
fn http_head(bencher: Bencher<'_, '_>, client: &str) {
    let (_, head) = HEADS.into_iter().find(|(name, _)| *name == client).expect("one of the heads");
    let head = head.as_bytes();
    bencher.bench_local(|| matches!(http::parse_head(black_box(head)), Ok(Some((_, length))) if length == head.len()));
}

#[divan::bench(args = BATCHES)]
fn batch_complete(bencher: Bencher<'_, '_>, visits: u32) {
    let mut batch = Batch::default();
    let key = key();
    bencher.counter(visits).bench_local(|| {
        for waiter in 0..visits {
            assert!(batch.push(black_box(&Command::Increment { key, by: 1 }), waiter));
        }
        batch.record_reply(Ok(1_048_576));
        batch.complete(StoreError::OutcomeUnknown, |waiter, number| {
            black_box((waiter, number).0);
        });
    });
}

/// A temporary folder, removed after the benchmark.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("notch-benches-{name}-{}", process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[divan::bench(args = ["never", "always"])]
fn ledger_append(bencher: Bencher<'_, '_>, fsync: &str) {
    let folder = Folder::new(fsync);
    let when = if fsync == "always" { Fsync::Always } else { Fsync::Never };
    let limit = NameLimit { main: key(), most: usize::MAX };
    let (mut ledger, _) = Ledger::open(&folder.0.join("ledger"), when, limit).expect("a new ledger");
    let commands = [Command::Increment { key: key(), by: 64 }];
    let mut results = Vec::new();
    bencher.bench_local(|| {
        results.clear();
        ledger.commit(black_box(&commands), &mut results);
    });
}
